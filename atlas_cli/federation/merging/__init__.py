"""Merging and delivering the adapters of task groups: weights, screening, delivery errors, changes of the base."""
