"""The Python interface for callers without a config: one round, and ranks for a device."""
