"""From one MXNet checkpoint to a folder that a PyTorch service can use, with the proof."""
