"""Files to rows: one module a kind of format, each with readers ``(path, key, notes) -> rows``.

``notes`` is a list that a reader adds to where it had to choose how to read a file; whoever reads the data shows them.
"""
