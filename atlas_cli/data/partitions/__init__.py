"""Chooses the test rows and the rows of each client."""
