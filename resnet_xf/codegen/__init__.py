"""Writes a network as one readable Python file that needs its framework alone."""
