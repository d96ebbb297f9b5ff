"""The nodes of a plan: one frozen dataclass for each kind of layer and each kind of container.

A layer's node says all that is particular to its kind: the arguments of a framework's layer, its arrays with their
first values, and the shape of its output. A container's node says how data flows through its children, once for shapes
and for every framework. To add a kind, add a class here and one ``case`` to each backend's builder.

A tree of nodes is a network or a part of one, and any node can be built alone. A node's dotted name, as
``layer1.0.conv1``, is torchvision's and timm's; modules, trace rows and arrays have the same name. Tensors are
``(N, C, H, W)``, and ``(N, C)`` after a :class:`Flatten`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

from resnet_xf.architecture.rules import NEAR_1, Arrays, ArraySpec, Shape, expect, kernel_and_bias, windows
from resnet_xf.architecture.windows import pool_settings, window_settings
from resnet_xf.errors import ShapeError

STATISTICS = ("running_mean", "running_var")
"""The arrays of a batch norm that a forward pass in training updates; no gradient does."""


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic: ``bn1.running_mean``, say, or ``running_var`` alone."""
    return name.rpartition(".")[2] in STATISTICS


WEIGHTED = ("conv", "norm", "linear", "prelu")
"""The kinds of layers with arrays of their own."""


class Node:
    """A layer, which overrides :meth:`output_shape`, and :meth:`arrays` if it has weights; or a :class:`Container`."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        """The kind in one word: ``conv``, ``norm``, ``relu``, ``maxpool``, ``residual`` and so on."""
        return type(self).__name__.lower()

    def arrays(self) -> Arrays:
        """The arrays that the layer itself has."""
        return {}

    def settings(self) -> dict[str, float]:
        """What a framework's layer is given besides weights, as :mod:`resnet_xf.architecture.windows` names it."""
        return {}

    def output_shape(self, shape: Shape, /) -> Shape:
        """The shape of a layer's output, from its input's. :class:`Add` and :class:`Gate` take a second shape.

        Raises:
            ShapeError: if the input does not fit; the message does not name the layer.
        """
        return shape

    def named_children(self) -> Children:
        """The children with their names, in the order in which they are registered, run and listed."""
        return ()

    def changed(self, change: Change) -> Node:
        """The node with the result of ``change`` in place of each sequence of children that it holds."""
        return self


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


Children: TypeAlias = tuple[tuple[str, Node], ...]
Run: TypeAlias = Callable[..., Any]
Product: TypeAlias = Callable[[Any, Any], Any]
Change: TypeAlias = Callable[..., Children]
"""Maps children to new children. The keyword ``read_elsewhere`` names those whose outputs other modules read too."""


@dataclass(frozen=True, slots=True)
class Conv(Node):
    """A square two-dimensional convolution, padded with ``padding`` zeros on every side.

    It maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``. Its kernel is
    ``(out_channels, in_channels / groups, kernel, kernel)``.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = False

    def settings(self) -> dict[str, float]:
        return window_settings(self.kernel, self.stride, self.padding, self.dilation, groups=self.groups)

    def arrays(self) -> Arrays:
        return kernel_and_bias(
            self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel, bias=self.bias
        )

    def output_shape(self, shape: Shape, /) -> Shape:
        batch, _, *sizes = expect(shape, 4, self.in_channels)
        window = self.dilation * (self.kernel - 1) + 1
        return (batch, self.out_channels, *(windows(size, window, self.stride, self.padding) for size in sizes))


@dataclass(frozen=True, slots=True)
class Norm(Node):
    """Batch normalisation over ``(N, H, W)``. Each of its arrays is ``(channels,)``.

    Attributes:
        channels: of its input.
        eps: added to the variance.
        momentum: the share of the new value in the running statistics, as in PyTorch.
        affine: whether it has a learned scale and shift.
        zero_init: whether the scale starts at 0; this changes no arithmetic.
    """

    channels: int
    eps: float
    momentum: float
    affine: bool = True
    zero_init: bool = False

    def settings(self) -> dict[str, float]:
        return {"eps": self.eps, "momentum": self.momentum}

    def arrays(self) -> Arrays:
        shape = (self.channels,)
        arrays = {
            "weight": ArraySpec(shape, 0.0 if self.zero_init else 1.0, NEAR_1),
            "bias": ArraySpec(shape, 0.0, ("normal", 0.5, 0.1)),
            "running_mean": ArraySpec(shape),
            "running_var": ArraySpec(shape, 1.0, NEAR_1),
        }
        return arrays if self.affine else {name: arrays[name] for name in STATISTICS}

    def output_shape(self, shape: Shape, /) -> Shape:
        return expect(shape, 4, self.channels)


@dataclass(frozen=True, slots=True)
class Activation(Node):
    """An elementwise function."""

    function: Literal["relu", "sigmoid"]

    @property
    def kind(self) -> str:
        return self.function


@dataclass(frozen=True, slots=True)
class PReLU(Node):
    """``max(x, 0) + weight * min(x, 0)``: a learned slope for each channel, 0.25 at the start (He et al. 2015a)."""

    channels: int

    def arrays(self) -> Arrays:
        return {"weight": ArraySpec((self.channels,), 0.25, ("uniform", 0.1, 0.6))}

    def output_shape(self, shape: Shape, /) -> Shape:
        return expect(shape, 4, self.channels)


@dataclass(frozen=True, slots=True)
class Pad(Node):
    """``after`` zeros below and to the right: ``(N, C, H, W)`` to ``(N, C, H + after, W + after)``."""

    after: int

    def output_shape(self, shape: Shape, /) -> Shape:
        return (*expect(shape, 4)[:2], *(size + self.after for size in shape[2:]))


@dataclass(frozen=True, slots=True)
class Pool(Node):
    """Pooling over square windows. A mean leaves the padding out; ``ceil`` rounds the output's size up."""

    operation: Literal["max", "avg"]
    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False

    @property
    def kind(self) -> str:
        return f"{self.operation}pool"

    def settings(self) -> dict[str, float]:
        counts_padding = None if self.operation == "max" else False
        return pool_settings(self.kernel, self.stride, self.padding, ceil=self.ceil, counts_padding=counts_padding)

    def output_shape(self, shape: Shape, /) -> Shape:
        return (
            *expect(shape, 4)[:2],
            *(windows(n, self.kernel, self.stride, self.padding, self.ceil) for n in shape[2:]),
        )


@dataclass(frozen=True, slots=True)
class GlobalPool(Node):
    """The mean over height and width: ``(N, C, H, W)`` to ``(N, C, 1, 1)``."""

    def output_shape(self, shape: Shape, /) -> Shape:
        return (*expect(shape, 4)[:2], 1, 1)


@dataclass(frozen=True, slots=True)
class Flatten(Node):
    """All axes but the first become one: ``(N, C, H, W)`` to ``(N, C·H·W)``."""

    def output_shape(self, shape: Shape, /) -> Shape:
        return (shape[0], prod(shape[1:]))


@dataclass(frozen=True, slots=True)
class Linear(Node):
    """A fully connected layer: ``(N, in_features)`` to ``(N, out_features)``."""

    in_features: int
    out_features: int
    bias: bool = True

    def arrays(self) -> Arrays:
        return kernel_and_bias(self.out_features, self.in_features, bias=self.bias)

    def output_shape(self, shape: Shape, /) -> Shape:
        return (expect(shape, 2, self.in_features)[0], self.out_features)


@dataclass(frozen=True, slots=True)
class Add(Node):
    """The sum of a residual block's body and shortcut; a layer of its own, so that it is traced and compared."""

    def output_shape(self, shape: Shape, /, shortcut: Shape = ()) -> Shape:
        if shape != shortcut:
            raise ShapeError(f"the body gives {shape}, the shortcut {shortcut}; they cannot be added")
        return shape


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
