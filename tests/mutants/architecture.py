"""Defects of architecture: another layer, or the right one at another place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.sabotage import Change, only
from mutants.mutant import Mutant
from resnet_xf.architecture.nodes import Node, Sequential


def both(first: Change, second: Change) -> Change:
    return lambda name, node: first(name, second(name, node))


def reordered(container: str, *order: str) -> Change:
    """A container's children in another order; those that are not named are left out."""

    def change(name: str, node: Node) -> Node:
        if name != container:
            return node
        assert isinstance(node, Sequential)
        return Sequential(tuple((child, dict(node.children)[child]) for child in order))

    return change


def without(layer: str) -> Change:
    """The whole network less one of its own layers."""

    def change(name: str, node: Node) -> Node:
        if name:
            return node
        return Sequential(tuple((child, inner) for child, inner in node.children if child != layer))

    return change


def rewired(F: Any, layer: Any, *inputs: Any) -> Any:  # noqa: N803
    """Its first input, as it came."""
    return inputs[0]


def difference(F: Any, layer: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
    return body - shortcut


def ungated(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    """Its input, once the gate has run."""
    return x + 0 * layer(x)


def doubled(F: Any, layer: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
    return body + body


def ending_at_6(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    return F.clip(layer(x), 0, 6)


def idle(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    """Runs, to no effect."""
    return x + 0 * layer(x)


def largest(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    """The largest pixel of each channel."""
    return F.amax(x, (2, 3), keepdim=True) if hasattr(F, "amax") else F.max(x, axis=(2, 3), keepdims=True)


def swapped_halves(F: Any, layer: Any, x: Any) -> Any:  # noqa: N803
    """A map's upper half below its lower one."""
    return layer(F.flip(x, (2,)) if hasattr(F, "amax") else F.flip(x, axis=2))


STEM = ("conv1", "act1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "flatten", "fc")

ARCHITECTURE = [
    Mutant(
        "stride on the 3×3 for the 1×1",
        "shapes",
        "layer2.0.conv1",
        {"node": both(only("layer2.0.conv1", stride=1), only("layer2.0.conv2", stride=2))},
        "ResNet-50 v1",
    ),
    Mutant(
        "stride missing in a shortcut",
        "shapes",
        "layer3.0.downsample.0",
        {"node": only("layer3.0.downsample.0", stride=1)},
        "ResNet-18",
    ),
    Mutant("a bias too many", "shapes", "layer1.0.conv1", {"node": only("layer1.0.conv1", bias=True)}, "ResNet-18"),
    Mutant(
        "a bias too few",
        "shapes",
        "layer4.1.conv2",
        {"node": only("layer4.1.conv2", bias=False)},
        "the book's ResNet-18",
    ),
    Mutant("two groups for one", "shapes", "layer2.1.conv1", {"node": only("layer2.1.conv1", groups=2)}, "ResNet-18"),
    Mutant("pooling rounded up", "shapes", "maxpool", {"node": only("maxpool", ceil=True)}),
    Mutant("no ReLU in the stem", "shapes", "act1", {"node": without("act1")}),
    Mutant("ReLU before the norm", "shapes", "act1", {"node": reordered("", *STEM)}, "ResNet-18"),
    Mutant("two blocks in another order", "shapes", "layer1.1", {"node": reordered("layer1", "1", "0")}, "ResNet-18"),
    Mutant("a block too few", "shapes", "layer4.1.conv1", {"node": reordered("layer4", "0")}, "ResNet-18"),
    Mutant("a ReLU in the stem that does nothing", "forward float64", "act1", {"altered": {"act1": rewired}}),
    Mutant("average for max", "forward float64", "maxpool", {"node": only("maxpool", operation="avg")}, "ResNet-18"),
    Mutant("sigmoid for ReLU", "forward float64", "act1", {"node": only("act1", function="sigmoid")}, "ResNet-18"),
    Mutant(
        "sigmoid for ReLU after a sum",
        "forward float64",
        "layer1.0.act2",
        {"node": only("layer1.0.act2", function="sigmoid")},
        "ResNet-18",
    ),
    Mutant(
        "ReLU that ends at 6, further than anything shown in inference",
        "gradients",
        "layer2.0.bn1",
        {"altered": {"layer1.0.act2": ending_at_6}},
    ),
    Mutant("dilation at the same size", "shapes", "layer4.1.conv1", {"node": only("layer4.1.conv1", dilation=2, padding=2)}, "ResNet-18"),
    Mutant(
        "dilation at the same size, not told",
        "forward float64",
        "layer4.1.conv1",
        {"node": only("layer4.1.conv1", dilation=2, padding=2), "tells": False},
        "ResNet-18",
    ),
    Mutant("a sum that subtracts", "forward float64", "layer2.0.add", {"altered": {"layer2.0.add": difference}}),
    Mutant("a sum that leaves out the shortcut", "forward float64", "layer1.0.add", {"altered": {"layer1.0.add": rewired}}),
    Mutant("a sum of two bodies", "forward float64", "layer1.0.add", {"altered": {"layer1.0.add": doubled}}),
    Mutant(
        "a shortcut that reads the raw input",
        "forward float64",
        "layer2.0.downsample.0",
        {"node": lambda name, node: replace(node, shortcut_from="input") if name == "layer2.0" else node},
        "ResNet-18 v2",
    ),
    Mutant("a global pool that is the largest", "forward float64", "global_pool", {"altered": {"global_pool": largest}}),
    Mutant("images upside down", "forward float64", "conv1", {"altered": {"conv1": swapped_halves}}),
    Mutant(
        "ReLU for sigmoid in a gate",
        "forward float64",
        "layer1.0.se.gate",
        {"node": only("layer1.0.se.gate", function="relu")},
        "SE-ResNet-D",
    ),
    Mutant(
        "a gate that does not multiply",
        "forward float64",
        "layer1.0.se",
        {"altered": {"layer1.0.se": idle}},
        "SE-ResNet-D",
    ),
    Mutant(
        "max for average in a shortcut",
        "forward float64",
        "layer2.0.downsample.0",
        {"node": only("layer2.0.downsample.0", operation="max")},
        "SE-ResNet-D",
    ),
]  # fmt: skip
