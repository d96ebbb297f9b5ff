"""Shapes, parameter counts and multiply-accumulates of a plan, by arithmetic alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Integral
from typing import TYPE_CHECKING, Any

from resnet_xf.architecture.nodes import Children, Node, is_statistic, join
from resnet_xf.architecture.plan import Plan, root_of
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of a trace.

    Attributes:
        name: dotted; the whole network's is empty.
        kind: of node, in a word.
        depth: 0 for the whole network, 1 for its layers and stages, and so on inwards.
        output_shape: ``(N, C, H, W)`` or ``(N, C)``.
        parameters: how many numbers training moves (running statistics are not among them).
        macs: multiply-accumulates of convolutions and linear layers, for one image.
    """

    name: str
    kind: str
    depth: int
    output_shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What one layer of a native network showed.

    Attributes:
        output_shape: of what came out while it ran.
        weight_shapes: its own arrays, by name.
        settings: of a norm, its ``eps`` and its ``momentum`` (share of the new value): inference does not show the one
            and may hide the other.
        input_shapes: of what went in.
    """

    output_shape: Shape
    weight_shapes: dict[str, Shape]
    settings: dict[str, float] = field(default_factory=dict)
    input_shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class Passed:
    """What went into one layer of a native network while it ran, and what came out."""

    inputs: tuple[NDArray[Any], ...]
    output: NDArray[Any]


@dataclass(frozen=True, slots=True)
class ObservedTrace:
    """What the layers of a native network showed, by dotted name, in the order of registration.

    ``error`` is None, or in one line what the framework said when the run broke; the layers are then those that
    had run.
    """

    layers: dict[str, Observed]
    error: str | None = None


def count_parameters(shapes: Mapping[str, Shape]) -> int:
    """Trainable numbers among one layer's arrays, given by name."""
    return sum(prod(shape) for name, shape in shapes.items() if not is_statistic(name))


def count_macs(shapes: Mapping[str, Shape], output_shape: Shape) -> int:
    """Multiply-accumulates for one image of the layer with these arrays, known by its ``weight``.

    Four axes make a convolution, two a linear layer; anything else counts nothing.
    """
    weight = shapes.get("weight", ())
    return prod(weight) * prod(output_shape[2:]) if len(weight) in (2, 4) else 0


def trace(network: Plan | ResNetSpec | str | Node, input_shape: Sequence[int], *, top: bool = False) -> list[Row]:
    """The rows of a network: first the whole, then every layer in the order in which they run.

    Args:
        network: a plan, a spec, the name of one, or a single node such as a residual block.
        input_shape: ``(N, C, H, W)``.
        top: only the whole and its direct children.

    Raises:
        ShapeError: if the input does not fit or shrinks to nothing; the message begins with the layer's name.
        SpecError: if a spec is malformed.
    """
    root = root_of(network)
    shape = tuple(input_shape)
    if len(shape) != 4 or not all(isinstance(size, Integral) and size > 0 for size in shape):
        raise ShapeError(f"input: expected (N, C, H, W), each at least 1, got {shape}")
    rows = _rows(root, "", 0, shape)
    return [row for row in rows if row.depth <= 1] if top else rows


def observed_rows(observed: ObservedTrace, kinds: Mapping[str, str]) -> list[Row]:
    """A backend's own trace as rows, the whole first; shapes and counts come from the native layers alone.

    ``kinds`` are the plan's words for the layers, by name.
    """
    parameters: defaultdict[str, int] = defaultdict(int)
    macs: defaultdict[str, int] = defaultdict(int)
    rows = []
    for name, layer in reversed(observed.layers.items()):  # what a container holds comes before it here
        parameters[name] += count_parameters(layer.weight_shapes)
        macs[name] += count_macs(layer.weight_shapes, layer.output_shape)
        depth = name.count(".") + 1 if name else 0
        rows.append(Row(name, kinds.get(name, "unknown"), depth, layer.output_shape, parameters[name], macs[name]))
        if name:
            parent = name.rpartition(".")[0]
            while parent and parent not in observed.layers:  # of somebody else's network, not every layer is told of
                parent = parent.rpartition(".")[0]
            parameters[parent] += parameters[name]
            macs[parent] += macs[name]
    return rows[::-1]


def _rows(node: Node, name: str, depth: int, shape: Shape) -> list[Row]:
    """The row of a node, and after it the rows of everything in it."""
    inner: list[Row] = []

    def run(layers: Children, shape: Shape) -> Shape:
        for child_name, child in layers:
            rows = _rows(child, join(name, child_name), depth + 1, shape)
            inner.extend(rows)
            shape = rows[0].output_shape
        return shape

    output = node.flow(name, shape, run)
    own = {word: array.shape for word, array in node.arrays().items()}
    direct = [row for row in inner if row.depth == depth + 1]
    parameters = count_parameters(own) + sum(row.parameters for row in direct)
    macs = count_macs(own, output) + sum(row.macs for row in direct)
    return [Row(name, node.kind, depth, output, parameters, macs), *inner]
