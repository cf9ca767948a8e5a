"""Which clients share a task, from small sketches of their gradients."""
