"""Merging the adapters of a task group.

One file a method, found by file name; ``_base.py`` says what a file defines.
"""
