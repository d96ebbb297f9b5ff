"""The benchmark: measures images per second of networks, each in its own process, and compares them."""
