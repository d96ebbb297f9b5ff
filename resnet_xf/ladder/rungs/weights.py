"""Rung 2: the weights are loaded into each network and read back, equal to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_xf.architecture.measures import array_digest, same_bits
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import DTYPES
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject


@measured("shapes/{dtype}")
def shapes(live: Live, dtype: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight and running statistic of a new network, by name."""
    return {name: array.shape for name, array in live.backend.dump(live.built(dtype)).items()}


@measured("digests/{dtype}")
def digests(live: Live, dtype: str) -> dict[str, str]:
    """Load the weights into a network, read them back, and return their digests, by name."""
    weights, known = live.subject.weights, live.subject.digests[dtype]
    returned = live.backend.dump(live.network(dtype))
    same = {name for name, a in returned.items() if name in known and same_bits(a, weights[name].astype(dtype))}
    return {name: known[name] if name in same else array_digest(array) for name, array in returned.items()}


def measure(subject: Subject, side: Side) -> None:
    """Let a side measure and save shapes of a new network's arrays and digests of loaded ones, in both dtypes."""
    for dtype in DTYPES:
        shapes(side, dtype)
        digests(side, dtype)


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Check each side (network): no array may be missing, left over, of another shape, or come back with other bits.

    Before that, two networks that a user built must have the same weights, and an original network that was recorded
    elsewhere must have the same digests as ``subject.weights``.
    """
    if finding := _compare_brought(subject) or _compare_digests(subject):
        return finding
    weights = subject.weights
    for side in sides:
        for dtype in DTYPES:
            there = shapes(side, dtype)
            for name in [*weights, *(name for name in there if name not in weights)]:
                if name not in there or name not in weights:
                    state = "left over" if name in there else "missing"
                    return Finding(1, 0, f"{state} in {side.name}", where=name)
                if there[name] != weights[name].shape:
                    both = f"{weights[name].shape} in {subject.outline.source}, {there[name]} in {side.name}"
                    return Finding(1, 0, f"shape {both}", where=name)
            returned = digests(side, dtype)
            wrong = [name for name, digest in subject.digests[dtype].items() if returned[name] != digest]
            if wrong:
                return Finding(len(wrong), 0, f"comes back changed from {side.name} in {dtype}", where=wrong[0])
    own = "; each network's own are the same" if subject.brought else ""
    return Finding(0, 0, f"{len(weights)} arrays, in float32 and float64{own}", remark=_rounded(subject))


def _compare_brought(subject: Subject) -> Finding | None:
    """Return a failure if a user's two networks have different weights, in the coarser of their dtypes; else None."""
    (first, expected), *others = subject.brought.items() or [("", {})]
    for other, arrays in others:
        pairs = {name: _in_coarser_dtype(arrays[name], expected[name]) for name in expected if name in arrays}
        wrong = [name for name, (a, b) in pairs.items() if a.shape == b.shape and not same_bits(a, b)]
        if wrong:
            a, b = pairs[wrong[0]]
            most = np.abs(a.astype(np.float64) - b).max()
            detail = f"{other}'s own is not {first}'s, by up to {most:.2g}; {len(wrong)} of {len(expected)} differ"
            return Finding(len(wrong), 0, detail, where=wrong[0])
    return None


def _compare_digests(subject: Subject) -> Finding | None:
    """Return a failure if a weight does not have the digest that was recorded of an original network; else None."""
    for name, error in subject.differing.items():
        count = f"{len(subject.differing)} of {len(subject.weights)} differ"
        return Finding(len(subject.differing), 0, f"is not the original's, by about {error:.2g}; {count}", where=name)
    return None


def _rounded(subject: Subject) -> str:
    """Return a text that says by how much one of a user's two networks has the other's weights rounded, or ``""``."""
    (first, expected), *others = subject.brought.items() or [("", {})]
    for other, arrays in others:
        for name in expected.keys() & arrays.keys():
            a, b = expected[name], arrays[name]
            if a.dtype != b.dtype and (a.astype(np.float64) != b).any():
                most = max(np.abs(expected[n].astype(np.float64) - arrays[n]).max() for n in expected if n in arrays)
                coarse = first if a.dtype.itemsize < b.dtype.itemsize else other
                dtype = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
                return f"{coarse}'s weights are rounded to {dtype}, by up to {most:.2g}"
    return ""


def _in_coarser_dtype(first: Array, second: Array) -> tuple[Array, Array]:
    """Return both arrays in the dtype of the one with fewer digits, because a migration may have rounded to it."""
    dtype = min(first.dtype, second.dtype, key=lambda dtype: dtype.itemsize)
    return first.astype(dtype), second.astype(dtype)


RUNG = Rung(2, "weights", "arrays that change", measure, judge)
