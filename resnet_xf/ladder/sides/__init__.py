"""A side is one network under comparison: run here by a backend, or read from saved measurements (a capture)."""
