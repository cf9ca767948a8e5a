"""Devices: their profiles, the work and bytes of a step, and the resulting time on the virtual clock."""
