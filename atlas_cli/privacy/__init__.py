"""Privacy that is measured: attacks on recorded messages, and what they say of a run."""
