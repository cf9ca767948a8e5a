"""The run directory: what a run leaves, what is checked when it is read, and what a run goes on from.

docs/run-directory.md describes every file of it. ``runs.schemas`` holds the fields of all records as pydantic models,
and each line that is read is checked against them.
"""
