"""Shapes, parameter counts and multiply-accumulates: of a plan by arithmetic, of a native network as observed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Integral
from typing import Any

from resnet_xf.architecture.nodes import Children, Container, Node, is_statistic, output_shapes, walk
from resnet_xf.architecture.plan import Plan, root_of
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.spec import Spec
from resnet_xf.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of a trace.

    Attributes:
        name: dotted; empty for the whole network.
        kind: the node's kind in one word.
        depth: 0 for the whole network, 1 for its layers and stages, and so on.
        output_shape: ``(N, C, H, W)`` or ``(N, C)``.
        parameters: number of trainable values; running statistics are not counted.
        macs: multiply-accumulates of convolutions and linear layers for one image.
    """

    name: str
    kind: str
    depth: int
    output_shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What one layer of a native network did in a forward pass.

    Attributes:
        output_shape: of its output.
        weight_shapes: of its own arrays, by name.
        settings: those that :meth:`resnet_xf.backend.contract.Backend.settings` gives.
        input_shapes: of its inputs.
    """

    output_shape: Shape
    weight_shapes: dict[str, Shape]
    settings: dict[str, float] = field(default_factory=dict)
    input_shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedTrace:
    """The layers of a native network by dotted name, in running order, each block before the layers in it.

    ``error`` is None, or the framework's message in one line if the forward pass failed. ``layers`` are then those
    that had run before.
    """

    layers: dict[str, Observed]
    error: str | None = None


def count_parameters(shapes: Mapping[str, Shape]) -> int:
    """Number of trainable values in one layer, from the shapes of its arrays by name."""
    return sum(prod(shape) for name, shape in shapes.items() if not is_statistic(name))


def count_macs(shapes: Mapping[str, Shape], output_shape: Shape) -> int:
    """Multiply-accumulates of one layer for one image.

    A ``weight`` of four axes is a convolution's, one of two axes a linear layer's; any other layer has none.
    """
    weight = shapes.get("weight", ())
    return prod(weight) * prod(output_shape[2:]) if len(weight) in (2, 4) else 0


def trace(network: Plan | Spec | str | Node, input_shape: Sequence[int], *, top: bool = False) -> list[Row]:
    """The rows of a network: first the whole network, then every layer in the order in which they run.

    Args:
        network: a plan, a spec, the name of one, or a single node such as a residual block.
        input_shape: ``(N, C, H, W)``.
        top: return only the whole network and its direct children.

    Raises:
        ShapeError: if the input does not fit or shrinks to nothing; the message begins with the layer's name.
        SpecError: if a spec is malformed.
    """
    root = root_of(network)
    shape = tuple(input_shape)
    if len(shape) != 4 or not all(isinstance(size, Integral) and size > 0 for size in shape):
        raise ShapeError(f"input: expected (N, C, H, W), each at least 1, got {shape}")
    shapes = output_shapes(root, shape)
    nodes = dict(walk(root))
    layers = {
        name: Observed(shapes[name], {word: array.shape for word, array in node.arrays().items()})
        for name, node in nodes.items()
    }
    rows = observed_rows(ObservedTrace(layers), {name: node.kind for name, node in nodes.items()})
    return [row for row in rows if row.depth <= 1] if top else rows


def totals(root: Node, input_shape: Shape) -> tuple[int, int]:
    """Return the parameters and the multiply-accumulates of a network, faster than :func:`trace` where blocks repeat.

    Raises:
        ShapeError: if the input does not fit; the message does not name the layer.
    """
    known: dict[tuple[int, Shape], tuple[Shape, int, int]] = {}

    def of(node: Node, *shapes: Shape) -> tuple[Shape, int, int]:
        if not isinstance(node, Container):
            arrays = {word: array.shape for word, array in node.arrays().items()}
            output = node.output_shape(*shapes)
            return output, count_parameters(arrays), count_macs(arrays, output)
        key = id(node), shapes[0]  # equal blocks of a stage are one object
        if key not in known:
            sums = [0, 0]

            def run(children: Children, *inputs: Shape) -> Shape:
                for _, child in children:
                    output, parameters, macs = of(child, *inputs)
                    sums[0] += parameters
                    sums[1] += macs
                    inputs = (output,)
                return inputs[0]

            product: Any = node.output_shape  # a gate's takes two shapes
            output = node.flow(run, product, *shapes)
            known[key] = output, *sums
        return known[key]

    return of(root, input_shape)[1:]


def observed_rows(observed: ObservedTrace, kinds: Mapping[str, str]) -> list[Row]:
    """The rows of a native network, the whole network first. Shapes and counts are those of its native layers.

    ``kinds`` are the kinds of the plan's layers, by name; a layer that is not there is ``unknown``.
    """
    parameters: defaultdict[str, int] = defaultdict(int)
    macs: defaultdict[str, int] = defaultdict(int)
    rows = []
    for name, layer in reversed(observed.layers.items()):  # a layer comes before its container here
        parameters[name] += count_parameters(layer.weight_shapes)
        macs[name] += count_macs(layer.weight_shapes, layer.output_shape)
        depth = name.count(".") + 1 if name else 0
        rows.append(Row(name, kinds.get(name, "unknown"), depth, layer.output_shape, parameters[name], macs[name]))
        if name:
            parent = name.rpartition(".")[0]
            while parent and parent not in observed.layers:  # a foreign network may not list every container
                parent = parent.rpartition(".")[0]
            parameters[parent] += parameters[name]
            macs[parent] += macs[name]
    return rows[::-1]
