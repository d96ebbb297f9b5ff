"""The parity ladder: proof that two networks are the same, or the first layer at which they differ."""
