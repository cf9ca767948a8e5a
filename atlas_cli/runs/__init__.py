"""The run directory: the files of a run, their checks on reading, and the checkpoints that it resumes from.

docs/reference/run-directory.md describes every file of it. ``runs.schemas`` holds the fields of all records as pydantic
models, and each line that is read is checked against them.
"""
