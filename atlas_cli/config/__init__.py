"""The experiment config: schema, strict YAML, overrides, checks, and printing it back."""
