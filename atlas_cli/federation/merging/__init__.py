"""Merging and delivering the adapters of task groups: weights, screening, errors, changes of the base."""
