"""What the builders read: thirteen kinds of frozen node, each with every argument that a framework's layer needs.

A tree of nodes is a network, or a part of one: any node can be built alone. Containers name their children;
the names joined by dots are torchvision's and timm's, the same for modules, trace rows and weights.
All tensors are ``(N, C, H, W)``, and ``(N, C)`` after a :class:`Flatten`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Conv:
    """A square two-dimensional convolution, padded alike on all sides with zeros."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """Batch normalisation; ``momentum`` is the share of the new value, ``affine`` a learned scale and shift.

    ``zero_init`` says that the scale is drawn as 0 at the start; it changes no arithmetic.
    """

    channels: int
    eps: float
    momentum: float
    affine: bool = True
    zero_init: bool = False


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function."""

    function: Literal["relu", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros below and to the right: ``(N, C, H, W)`` to ``(N, C, H + after, W + after)``."""

    after: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Pooling over square windows; padding never enters a mean; ``ceil`` rounds the output's size up."""

    operation: Literal["max", "avg"]
    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over height and width: ``(N, C, H, W)`` to ``(N, C, 1, 1)``."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """``(N, C, H, W)`` to ``(N, C·H·W)``."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer on ``(N, in_features)``."""

    in_features: int
    out_features: int
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of a residual block's body and shortcut; a layer of its own, so that it is traced and compared."""


@dataclass(frozen=True, slots=True)
class Sequential:
    """Named children, one after another."""

    children: Children


@dataclass(frozen=True, slots=True)
class Taps:
    """Named children, one after another; the output is the list of those outputs that ``names`` names, in order."""

    children: Children
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Residual:
    """``post(add(body(pre(x)), shortcut))``; the one block behind v1 and pre-activation v2 alike.

    ``shortcut`` is a projection named ``downsample``, which reads the raw input ``x`` or what ``pre`` made of
    it; where it is None the raw input itself is added. The children of ``pre``, ``body`` and ``post`` are
    named directly in the block, as in torchvision; the sum is named ``add``.
    """

    pre: Children
    body: Children
    shortcut: Sequential | None
    shortcut_from: Literal["input", "preactivation"]
    post: Children


@dataclass(frozen=True, slots=True)
class Gate:
    """``x * body(x)``, the body's output ``(N, C, 1, 1)`` spread over height and width."""

    body: Children


Leaf: TypeAlias = Conv | Norm | Activation | Pad | Pool | GlobalPool | Flatten | Linear | Add
Node: TypeAlias = Leaf | Sequential | Taps | Residual | Gate
Children: TypeAlias = tuple[tuple[str, Node], ...]

STATISTICS = ("running_mean", "running_var")
"""The arrays of a batch norm that a forward pass in training updates; no gradient does."""


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic: ``bn1.running_mean``, say, or ``running_var`` alone."""
    return name.rpartition(".")[2] in STATISTICS


def kind(node: Node) -> str:
    """The node's kind in a word: ``conv``, ``norm``, ``relu``, ``maxpool``, ``residual`` and so on."""
    match node:
        case Activation(function=function):
            return function
        case Pool(operation=operation):
            return f"{operation}pool"
        case _:
            return type(node).__name__.lower()


def children(node: Node) -> Children:
    """The node's named children in the order in which they are registered, run and listed."""
    match node:
        case Sequential(children=inner) | Taps(children=inner) | Gate(body=inner):
            return inner
        case Residual():
            shortcut = (("downsample", node.shortcut),) if node.shortcut else ()
            return (*node.pre, *node.body, *shortcut, ("add", Add()), *node.post)
        case _:
            return ()


def join(parent: str, name: str) -> str:
    """The dotted name of a child; the root's own name is empty."""
    return f"{parent}.{name}" if parent else name


def walk(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below and including ``node`` with its dotted name, a container before what it holds."""
    yield name, node
    for child_name, child in children(node):
        yield from walk(child, join(name, child_name))


def weight_shapes(node: Node) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that one node itself holds, by name: ``weight``, ``bias``, the statistics."""
    match node:
        case Conv():
            kernel = (node.out_channels, node.in_channels // node.groups, node.kernel, node.kernel)
            return {"weight": kernel} | ({"bias": (node.out_channels,)} if node.bias else {})
        case Linear():
            matrix = (node.out_features, node.in_features)
            return {"weight": matrix} | ({"bias": (node.out_features,)} if node.bias else {})
        case Norm():
            names = ("weight", "bias", *STATISTICS) if node.affine else STATISTICS
            return dict.fromkeys(names, (node.channels,))
        case _:
            return {}
