"""Protocols by which runs are held against each other under budgets, from their records alone."""
