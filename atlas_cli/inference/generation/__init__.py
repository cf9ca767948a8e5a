"""Text that a trained causal model generates, what crosses the cut for it, and its time on the run's devices."""
