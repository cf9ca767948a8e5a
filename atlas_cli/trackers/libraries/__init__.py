"""Trackers, one file each: ``wandb.py`` is ``trackers: [wandb]`` in a config. Its class is named ``Tracker``."""
