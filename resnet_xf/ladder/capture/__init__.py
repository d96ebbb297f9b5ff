"""Saves what one network computes to a folder or file on one machine, and compares it on another."""
