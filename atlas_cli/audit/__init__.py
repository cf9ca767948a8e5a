"""``atlas audit``: what the messages of a run give away, by attacks on them (``attacks``), beside what hiding costs."""
