"""The state of clients between their rounds: what it holds, where it is stored, and how it is restored."""
