"""Throughput: what is measured, how, and what the figures mean."""
