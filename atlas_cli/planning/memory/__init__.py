"""Predicted memory of one party: its weights, adapters, gradients, optimizer state and saved activations."""
