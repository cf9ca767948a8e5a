"""Predicted memory: what is held, what is saved for backward, for one party and for all of a plan."""
