"""Evidence saved to a folder on one machine and compared on another."""
