"""The tables of single commands, from their results to what is printed."""
