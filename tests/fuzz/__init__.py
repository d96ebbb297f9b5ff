"""Damaged files for every reader: each is read, or refused by one of our errors, in little time and memory."""
