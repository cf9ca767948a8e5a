"""Aggregation methods: one file each, found by its name in the YAML (``aggregation: {method: delta-svd}``)."""
