"""Which rows are tested on, and which rows each client has."""
