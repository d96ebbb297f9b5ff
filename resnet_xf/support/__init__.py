"""Helpers that know nothing of networks: files, documents, optional imports, signals."""
