"""Rung 2: weights go into each backend and come out again to the bit."""

from __future__ import annotations

import numpy as np

from resnet_xf.measures import same_bits
from resnet_xf.parity.subject import Finding, Subject


def round_trip(subject: Subject) -> Finding:
    """Every array, in float32 and float64: none missing, none left over, each with the same bits."""
    for backend in subject.backends:
        for dtype in ("float32", "float64"):
            subject.let_go()
            held = backend.dump(backend.build(subject.plan.root, dtype))
            names = [*subject.weights, *(name for name in held if name not in subject.weights)]
            for name in names:
                if name not in held or name not in subject.weights:
                    state = "left over" if name in held else "missing"
                    return Finding(1, 0, f"{state} in {backend.name}", where=name)
                if held[name].shape != subject.weights[name].shape:
                    shapes = f"{subject.weights[name].shape} in the plan, {held[name].shape} in {backend.name}"
                    return Finding(1, 0, f"shape {shapes}", where=name)
            returned = backend.dump(subject.network(backend, dtype))
            wrong = [
                name
                for name, array in subject.weights.items()
                if not same_bits(returned[name], array.astype(dtype, copy=False))
            ]
            if wrong:
                differing = int(np.sum(returned[wrong[0]] != subject.weights[wrong[0]]))
                detail = f"{differing} of {returned[wrong[0]].size} numbers come back changed from {backend.name}"
                return Finding(len(wrong), 0, f"{detail} in {dtype}", where=wrong[0])
    return Finding(0, 0, f"{len(subject.weights)} arrays, in float32 and float64")
