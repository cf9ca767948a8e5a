"""Where clients and server run: an engine takes a federation through the local steps of a round."""
