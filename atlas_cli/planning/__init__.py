"""From a config to a plan, without loading weights."""
