"""Shapes, parameter counts and multiply-accumulates of a plan, by arithmetic alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_xf.architecture.nodes import (
    Activation,
    Add,
    Conv,
    Flatten,
    Gate,
    GlobalPool,
    Linear,
    Node,
    Norm,
    Pad,
    Pool,
    Residual,
    Sequential,
    Taps,
    is_statistic,
    join,
    kind,
    weight_shapes,
)
from resnet_xf.architecture.plan import Plan, root_of
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import ShapeError

Shape = tuple[int, ...]


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
    if len(shape) != 4 or not all(isinstance(size, int | np.integer) and size > 0 for size in shape):
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
    """The node's own row and, after it, those of what it holds."""
    own = weight_shapes(node)
    inner: list[Row] = []

    def run(layers: Sequence[tuple[str, Node]], shape: Shape) -> Shape:
        for child_name, child in layers:
            rows = _rows(child, join(name, child_name), depth + 1, shape)
            inner.extend(rows)
            shape = rows[0].output_shape
        return shape

    match node:
        case Sequential() | Taps():
            output = run(node.children, shape)
        case Residual():
            before = run(node.pre, shape)
            body = run(node.body, before)
            short = shape
            if node.shortcut:
                source = shape if node.shortcut_from == "input" else before
                short = run((("downsample", node.shortcut),), source)
            if body != short:
                where = join(name, "add")
                raise ShapeError(f"{where}: the body gives {body}, the shortcut {short}; they cannot be added")
            output = run((("add", Add()), *node.post), body)
        case Gate():
            gate = run(node.body, shape)
            if gate != (*shape[:2], 1, 1):
                raise ShapeError(f"{name or 'gate'}: a gate on {shape} must be {(*shape[:2], 1, 1)}, got {gate}")
            output = shape
        case _:
            output = _leaf(node, name or kind(node), shape)
    direct = [row for row in inner if row.depth == depth + 1]
    parameters = count_parameters(own) + sum(row.parameters for row in direct)
    macs = count_macs(own, output) + sum(row.macs for row in direct)
    return [Row(name, kind(node), depth, output, parameters, macs), *inner]


def _leaf(node: Node, name: str, shape: Shape) -> Shape:
    """The output shape of a node without children."""
    match node:
        case Conv():
            _expect(name, shape, 4, node.in_channels)
            reach = node.dilation * (node.kernel - 1) + 1
            spatial = [_slide(name, size, reach, node.stride, node.padding, ceil=False) for size in shape[2:]]
            return (shape[0], node.out_channels, *spatial)
        case Pad():
            _expect(name, shape, 4)
            return (*shape[:2], *(size + node.after for size in shape[2:]))
        case Pool():
            _expect(name, shape, 4)
            spatial = [_slide(name, size, node.kernel, node.stride, node.padding, node.ceil) for size in shape[2:]]
            return (*shape[:2], *spatial)
        case Norm():
            _expect(name, shape, 4, node.channels)
            return shape
        case GlobalPool():
            _expect(name, shape, 4)
            return (*shape[:2], 1, 1)
        case Flatten():
            return (shape[0], prod(shape[1:]))
        case Linear():
            _expect(name, shape, 2, node.in_features)
            return (shape[0], node.out_features)
        case Activation() | Add():
            return shape
    raise TypeError(f"{name}: {node!r} is no node")


def _expect(name: str, shape: Shape, axes: int, channels: int | None = None) -> None:
    if len(shape) != axes:
        wanted = "(N, C, H, W)" if axes == 4 else "(N, C)"
        raise ShapeError(f"{name}: expected {wanted}, got {shape}")
    if channels is not None and shape[1] != channels:
        raise ShapeError(f"{name}: expected {channels} channels, got {shape[1]} in {shape}")


def _slide(name: str, size: int, reach: int, stride: int, padding: int, ceil: bool) -> int:
    """How many windows fit along an axis; with ``ceil`` a last one may hang over, if it begins inside.

    One that would begin outside is refused: PyTorch drops it and MXNet keeps it.
    """
    span = size + 2 * padding - reach
    if span < 0:
        raise ShapeError(
            f"{name}: an input of size {size} shrinks to nothing under a window of {reach}; give a larger image"
        )
    windows = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (windows - 1) * stride >= size + padding:
        raise ShapeError(f"{name}: on size {size} its last window begins outside the image; frameworks disagree there")
    return windows
