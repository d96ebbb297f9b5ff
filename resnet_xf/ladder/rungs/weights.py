"""Rung 2: weights go into each side and come out again to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_xf.architecture.measures import same_bits
from resnet_xf.architecture.weights import Array
from resnet_xf.ladder.sides.side import Side, fingerprint
from resnet_xf.ladder.subject import Finding, Subject


def round_trip(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Every array, in float32 and float64: none missing, none left over, each with the same bits.

    Networks that somebody else built held theirs before, and those are compared first.
    """
    if finding := _brought(subject):
        return finding
    weights = subject.weights
    for side in sides:
        for dtype in ("float32", "float64"):
            held = side.held(dtype)
            for name in [*weights, *(name for name in held if name not in weights)]:
                if name not in held or name not in weights:
                    state = "left over" if name in held else "missing"
                    return Finding(1, 0, f"{state} in {side.name}", where=name)
                if held[name] != weights[name].shape:
                    shapes = f"{weights[name].shape} in {subject.outline.source}, {held[name]} in {side.name}"
                    return Finding(1, 0, f"shape {shapes}", where=name)
            returned = side.returned(dtype)
            wrong = [n for n, a in weights.items() if returned[n] != fingerprint(a.astype(dtype, copy=False))]
            if wrong:
                return Finding(len(wrong), 0, f"comes back changed from {side.name} in {dtype}", where=wrong[0])
    own = "; each network's own are the same" if subject.brought else ""
    return Finding(0, 0, f"{len(weights)} arrays, in float32 and float64{own}")


def _brought(subject: Subject) -> Finding | None:
    """An array that one of somebody's own networks holds with other bits than the first."""
    (first, wanted), *others = subject.brought.items() or [("", {})]
    for other, arrays in others:
        pairs = {name: _same_dtype(arrays[name], wanted[name]) for name in wanted if name in arrays}
        wrong = [name for name, (got, want) in pairs.items() if got.shape == want.shape and not same_bits(got, want)]
        if wrong:
            got, want = pairs[wrong[0]]
            apart = np.abs(got.astype(np.float64) - want).max()
            detail = f"{other}'s own is not {first}'s, by up to {apart:.2g}; {len(wrong)} of {len(wanted)} differ"
            return Finding(len(wrong), 0, detail, where=wrong[0])
    return None


def _same_dtype(first: Array, second: Array) -> tuple[Array, Array]:
    """Both in the dtype of fewer digits: in moving weights, that is where they were rounded."""
    dtype = min(first.dtype, second.dtype, key=lambda dtype: dtype.itemsize)
    return first.astype(dtype), second.astype(dtype)
