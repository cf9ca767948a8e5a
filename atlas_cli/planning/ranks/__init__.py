"""Ranks from memory budgets: what a unit of rank costs, and the rules that spend it."""
