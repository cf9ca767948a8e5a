"""A run from its config to its report: session, round loop, records, saved state, and the proof of the split."""
