"""Trained models of a run, read again to use them: to evaluate, predict, generate and export."""
