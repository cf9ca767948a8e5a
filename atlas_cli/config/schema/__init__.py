"""The sections of an experiment config: what each key may say, with defaults, units and ranges."""
