"""Defects of layers that exported graphs have, and named networks have not."""

from __future__ import annotations

from typing import Any

from helpers.sabotage import only
from mutants.mutant import Mutant

NETWORK = "other layers"
ATTENTION = "layer1.0.attention.radix_softmax"


def swapped_radix(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    """The weights of the first part for the second, and the other way around."""
    weights = layer(x)
    if hasattr(F, "amax"):
        return F.roll(weights, weights.shape[1] // 2, 1)
    return F.reshape(F.flip(F.reshape(weights, shape=(0, 2, -1)), axis=1), shape=(0, -1, 1, 1))


def forward(defect: str, where: str, **fields: Any) -> Mutant:
    """A defect that shows in the output of its layer."""
    return Mutant(defect, "forward float64", where, {"node": only(where, **fields), "tells": False}, NETWORK)


LAYERS = [
    Mutant("another rate of dropout", "shapes", "drop", {"node": only("drop", rate=0.5)}, NETWORK),
    Mutant(
        "a mean that leaves out its padding", "shapes", "pool", {"node": only("pool", counts_padding=False)}, NETWORK
    ),
    forward("a mean that leaves out its padding, not told", "pool", counts_padding=False),
    forward("another slope of a leaky ReLU", "leaky", slope=0.1001),
    forward("another limit of a clip", "clip", high=0.7501),
    forward("another scale of the images", "normalize", scale=(2.0001,)),
    forward("the shift of the images left out", "normalize", shift=(0.0,)),
    forward("four groups for two in a group norm", "gn1", groups=4),
    forward("eps of a group norm, by a thousandth", "gn1", eps=1.001e-3),
    forward("cardinality left out of split attention", ATTENTION, cardinality=1),
    Mutant("radix in another order", "forward float64", ATTENTION, {"altered": {ATTENTION: swapped_radix}}, NETWORK),
]
