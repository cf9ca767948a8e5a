"""Data: from corpora, files and hub data sets to the rows of task groups and clients."""
