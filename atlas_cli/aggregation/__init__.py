"""How the adapters of a task group are merged.

``methods/`` has a file for each method, found by its name; ``contract.py`` says what a method is,
``atlas_cli.testing.methods`` tests one. The rest is arithmetic that methods share.
"""
