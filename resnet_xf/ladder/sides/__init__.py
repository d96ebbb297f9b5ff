"""The two sides of a comparison: a backend that runs now, or a capture."""
