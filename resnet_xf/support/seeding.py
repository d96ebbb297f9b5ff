"""Random numbers that depend on a key in words and on nothing else: the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(key: str, size: int = 16) -> int:
    """A whole number of ``size`` bytes that follows from the key: its BLAKE2b digest."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=size).digest(), "little")


def philox(key: str, counter: int = 0) -> np.random.Philox:
    """The counter-based bit generator of a key (Philox4x64, Salmon et al. 2011), from ``counter`` on.

    Its raw words are the same in every version of NumPy.
    """
    return np.random.Philox(key=seed_of(key), counter=counter)


def generator(key: str) -> np.random.Generator:
    """NumPy's random generator for a key, as ``generator("0/conv1.weight")``."""
    return np.random.Generator(philox(key))
