"""What a backend must offer, which one is chosen, and how its processes are started."""
