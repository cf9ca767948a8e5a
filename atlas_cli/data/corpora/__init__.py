"""Parsers of the packaged corpora: from data files in the cache to rows."""
