"""Several runs beside each other: what differs, how sure a difference of figures is, and what a target cost."""
