"""The rungs (checks) of the parity ladder, one file for each kind."""
