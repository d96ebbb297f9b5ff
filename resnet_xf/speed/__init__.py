"""Fast inference, and the benchmark."""
