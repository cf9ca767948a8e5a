"""Everything that takes part in a run: clients, server, merging, protection, and what is built of them."""
