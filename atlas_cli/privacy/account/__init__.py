"""Accounting by the end of a round: participation, norms, and epsilon."""
