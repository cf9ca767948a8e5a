"""What a client is between its turns: its state, where it is kept, and how it is given back."""
