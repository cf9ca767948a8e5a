"""Figures that papers publish, beside what atlas gives for them: one file a paper, the contract in ``claim.py``."""
