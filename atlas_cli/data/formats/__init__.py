"""Readers of file formats: one module per kind of format, each with functions ``(path, key, notes) -> rows``.

A reader appends to the list ``notes`` wherever it had to choose how to read a file; the notes are shown to the user.
"""
