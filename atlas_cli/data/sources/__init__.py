"""Data sources: one file each, found by its name as a key of ``data`` in the YAML (``data: {corpus: sms-spam}``)."""
