"""Ranks from memory budgets: the cost of a unit of rank, and the rules that allocate ranks."""
