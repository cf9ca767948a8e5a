"""Trackers: what others' programs for watching experiments are told of a run. No run fails for the want of one."""
