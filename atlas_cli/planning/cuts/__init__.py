"""Where to cut: the cost of every split layer, what it leaks, the choice, and what would make it fit."""
