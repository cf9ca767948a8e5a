"""Where to cut: the cost and leakage of every split layer, the choice, and the changes that would make one fit."""
