"""Defences: what is done to what leaves a client (``mechanisms``), and the account of what is told all the same."""
