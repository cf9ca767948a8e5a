"""Passes through frozen blocks that a GPU replays without Python between their kernels."""
