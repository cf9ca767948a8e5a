"""docs/results/beside-others.md: atlas beside other systems, for a reader who knows none of them."""
