"""What is told by the end of a round: participation, norms, and epsilon."""
