"""The two halves of a split step, client and server, and the unsplit clients of the baselines."""
