"""The nodes of a plan: the layers of :mod:`resnet_xf.architecture.layers`, and the containers that hold them.

A container's node says how data flows through its children, once for shapes and for every framework. To add a kind of
layer, add a class to ``layers``, one ``case`` to each backend's builder, and one where a backend writes it as source.

A tree of nodes is a network or a part of one, and any node can be built alone. A node's dotted name, as
``layer1.0.conv1``, is torchvision's and timm's; modules, trace rows and arrays have the same name. Tensors are
``(N, C, H, W)``, and ``(N, C)`` after a :class:`Flatten`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from resnet_xf.architecture.layers import (
    STATISTICS,
    WEIGHTED,
    Activation,
    Add,
    Change,
    Children,
    Clip,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    GroupNorm,
    LeakyReLU,
    Linear,
    Node,
    Norm,
    Pad,
    Pool,
    PReLU,
    RadixSoftmax,
    RadixSum,
    Scale,
    is_statistic,
)
from resnet_xf.architecture.rules import Shape
from resnet_xf.errors import ShapeError

__all__ = [
    "STATISTICS",
    "WEIGHTED",
    "Activation",
    "Add",
    "Chain",
    "Change",
    "Children",
    "Clip",
    "Container",
    "Conv",
    "Dropout",
    "Flatten",
    "Gate",
    "GlobalPool",
    "GroupNorm",
    "LeakyReLU",
    "Linear",
    "Node",
    "Norm",
    "PReLU",
    "Pad",
    "Pool",
    "RadixSoftmax",
    "RadixSum",
    "Residual",
    "Scale",
    "Sequential",
    "Taps",
    "interpret",
    "is_statistic",
    "join",
    "output_shapes",
    "walk",
]

Run: TypeAlias = Callable[..., Any]
Product: TypeAlias = Callable[[Any, Any], Any]


class Container(Node):
    """A node with children, which overrides :meth:`named_children`, :meth:`flow` and :meth:`changed`."""

    __slots__ = ()

    def flow(self, run: Run, product: Product, x: Any) -> Any:
        """The output for an input ``x``: a shape, an array or any framework's tensor; a list of them of :class:`Taps`.

        Args:
            run: ``run(children, *inputs)`` runs a sequence of children. Only :class:`Add` has two inputs.
            product: ``product(x, gate)`` multiplies the input of a :class:`Gate` by the gate ``(N, C, 1, 1)``.
            x: the input.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Chain(Container):
    """A container whose children run one after another."""

    children: Children

    def named_children(self) -> Children:
        return self.children

    def flow(self, run: Run, product: Product, x: Any) -> Any:
        return run(self.children, x)

    def changed(self, change: Change) -> Node:
        return replace(self, children=change(self.children))


@dataclass(frozen=True, slots=True)
class Sequential(Chain):
    """Named children, one after another."""


@dataclass(frozen=True, slots=True)
class Taps(Chain):
    """A backbone: named children, one after another. The output is the list of the outputs of ``names``, in order."""

    names: tuple[str, ...]

    def flow(self, run: Run, product: Product, x: Any) -> list[Any]:
        outputs = {}
        for child in self.children:
            outputs[child[0]] = x = run((child,), x)
        return [outputs[name] for name in self.names]

    def changed(self, change: Change) -> Node:
        return replace(self, children=change(self.children, read_elsewhere=self.names))


@dataclass(frozen=True, slots=True)
class Gate(Chain):
    """``x * body(x)``: the output of the children, ``(N, C, 1, 1)``, is repeated over height and width."""

    def output_shape(self, shape: Shape, /, gate: Shape = ()) -> Shape:
        if gate != (*shape[:2], 1, 1):
            raise ShapeError(f"a gate on {shape} must be {(*shape[:2], 1, 1)}, got {gate}")
        return shape

    def flow(self, run: Run, product: Product, x: Any) -> Any:
        return product(x, run(self.children, x))


@dataclass(frozen=True, slots=True)
class Residual(Container):
    """``post(add(body(pre(x)), shortcut))``: the one block of v1 networks and of pre-activation v2 networks.

    The children of ``pre``, ``body`` and ``post`` are named directly in the block, as in torchvision.

    Attributes:
        pre: layers before the body and, perhaps, the shortcut.
        body: the convolutions with their norms and activations.
        shortcut: a projection named ``downsample``; if None, ``x`` itself is added.
        shortcut_from: what the projection reads: ``x`` or ``pre(x)``.
        post: layers after the sum, which is named ``add``.
    """

    pre: Children
    body: Children
    shortcut: Node | None
    shortcut_from: Literal["input", "preactivation"]
    post: Children

    @property
    def downsample(self) -> Children:
        """The shortcut as children: one, or none."""
        return (("downsample", self.shortcut),) if self.shortcut else ()

    def named_children(self) -> Children:
        return (*self.pre, *self.body, *self.downsample, ("add", Add()), *self.post)

    def flow(self, run: Run, product: Product, x: Any) -> Any:
        before = run(self.pre, x)
        body = run(self.body, before)
        shortcut = run(self.downsample, before if self.shortcut and self.shortcut_from == "preactivation" else x)
        return run((("add", Add()), *self.post), body, shortcut)

    def changed(self, change: Change) -> Node:
        shortcut = dict(change(self.downsample)).get("downsample")
        return Residual(change(self.pre), change(self.body), shortcut, self.shortcut_from, change(self.post))


def join(parent: str, name: str) -> str:
    """The dotted name of a child; the root's own name is empty."""
    return f"{parent}.{name}" if parent else name


def walk(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """A node and every node in it, with their dotted names; a container comes before its children."""
    yield name, node
    for child_name, child in node.named_children():
        yield from walk(child, join(name, child_name))


def interpret(
    node: Node,
    compute: Callable[..., Any],
    show: Callable[[str, tuple[Any, ...], Any], object],
    *inputs: Any,
    name: str = "",
) -> Any:
    """Run a node without building it, for frameworks whose layers are functions on arrays. Returns its output.

    Args:
        node: a layer, or a container with all that it holds.
        compute: ``compute(name, node, *inputs)`` returns the output of a layer. It is also called for a :class:`Gate`,
            whose children have run: with the gate's input and their output. :class:`Add` has two inputs too.
        show: ``show(name, inputs, output)`` is called for every node once it has finished; :class:`Taps` show their
            last output.
        inputs: the framework's arrays.
        name: the node's dotted name.
    """

    def run(children: Children, *inputs: Any) -> Any:
        for child, inner in children:
            inputs = (interpret(inner, compute, show, *inputs, name=join(name, child)),)
        return inputs[0]

    one = partial(compute, name, node)
    output = node.flow(run, one, *inputs) if isinstance(node, Container) else one(*inputs)
    show(name, inputs, output[-1] if isinstance(output, list) else output)
    return output


def output_shapes(root: Node, shape: Shape) -> dict[str, Shape]:
    """Return the shape of the output of every node, by dotted name, for an input of a shape.

    Raises:
        ShapeError: if the input does not fit or shrinks to nothing; the message begins with the layer's name.
    """
    shapes: dict[str, Shape] = {}
    interpret(root, _output_shape, lambda name, inputs, output: shapes.update({name: output}), shape)
    return shapes


def _output_shape(name: str, node: Node, *shapes: Shape) -> Shape:
    try:
        return node.output_shape(*shapes)
    except ShapeError as error:
        raise ShapeError(f"{name or node.kind}: {error}") from None
