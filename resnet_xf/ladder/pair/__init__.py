"""Prepares two networks that the user built, and not this package from a spec, for a comparison."""
