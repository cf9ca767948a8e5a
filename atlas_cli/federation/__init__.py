"""Clients, server, the messages between them, and the round loop (``training.py``)."""
