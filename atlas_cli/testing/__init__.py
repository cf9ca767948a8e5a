"""Test suites of the contracts, for plug-ins of other packages: a line each in a plug-in's own tests."""
