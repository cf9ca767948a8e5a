"""Files: written whole or not at all, locked, kept under their content's hash, with names that every system takes."""
