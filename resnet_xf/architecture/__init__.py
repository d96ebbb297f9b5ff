"""What a network is: its spec, its plan of nodes, its shapes and its weights. No framework is imported."""
