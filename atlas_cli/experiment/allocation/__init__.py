"""Ranks and devices that need the built model: layer importance from gradients, and one client measured for real."""
