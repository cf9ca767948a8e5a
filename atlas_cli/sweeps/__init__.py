"""Many runs of one config with some keys changed: what one of them is, how it is run, and where (``executors``)."""
