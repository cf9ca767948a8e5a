"""Devices: profiles, the work and bytes of a step, and the time that follows on the virtual clock."""
