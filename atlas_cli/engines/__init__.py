"""Engines: where clients and server compute the local steps of a round."""
