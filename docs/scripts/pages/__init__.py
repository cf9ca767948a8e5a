"""The pages of the reference that are made of the code, one file for each kind of page."""
