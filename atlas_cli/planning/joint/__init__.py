"""Joint planning: all settings of a config together, what each candidate costs, and which none is better than."""
