"""Pairs of networks that the user built, in place of networks from a spec."""
