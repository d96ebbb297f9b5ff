"""Checkpoints of other programs: one file a format, the tables of names, and conversion."""
