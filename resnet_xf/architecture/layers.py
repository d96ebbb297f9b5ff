"""The layers of a plan: one frozen dataclass for each kind.

A layer's node says all that is particular to its kind: the arguments of a framework's layer, its arrays with their
first values, and the shape of its output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from resnet_xf.architecture.rules import (
    NEAR_1,
    Arrays,
    ArraySpec,
    Axes,
    Constant,
    Count,
    Padding,
    Shape,
    Share,
    Window,
    expect,
    kernel_and_bias,
    windows,
)
from resnet_xf.architecture.windows import pool_settings, window_settings
from resnet_xf.errors import ShapeError

STATISTICS = ("running_mean", "running_var")
"""The arrays of a batch norm that a forward pass in training updates; no gradient does."""


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic: ``bn1.running_mean``, say, or ``running_var`` alone."""
    return name.rpartition(".")[2] in STATISTICS


WEIGHTED = ("conv", "norm", "groupnorm", "linear", "prelu")
"""The kinds of layers with arrays of their own."""


Children: TypeAlias = tuple[tuple[str, "Node"], ...]
Change: TypeAlias = Callable[..., Children]
"""Maps children to new children. The keyword ``read_elsewhere`` names those whose outputs other modules read too."""


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


@dataclass(frozen=True, slots=True)
class Conv(Node):
    """A square two-dimensional convolution, padded with ``padding`` zeros on every side.

    It maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``. Its kernel is
    ``(out_channels, in_channels / groups, kernel, kernel)``.
    """

    in_channels: Count
    out_channels: Count
    kernel: Window
    stride: Window = 1
    padding: Padding = 0
    dilation: Window = 1
    groups: Count = 1
    bias: bool = False

    def settings(self) -> dict[str, float]:
        return window_settings(self.kernel, self.stride, self.padding, self.dilation, groups=self.groups)

    def arrays(self) -> Arrays:
        return kernel_and_bias(
            self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel, bias=self.bias
        )

    def output_shape(self, shape: Shape, /) -> Shape:
        batch, _, *sizes = expect(shape, 4, self.in_channels)
        _expect_groups(self.groups, self.in_channels, self.out_channels)
        window = self.dilation * (self.kernel - 1) + 1
        return (batch, self.out_channels, *(windows(size, window, self.stride, self.padding) for size in sizes))


@dataclass(frozen=True, slots=True)
class Norm(Node):
    """Batch normalisation over ``(N, H, W)``, or over ``N``. Each of its arrays is ``(channels,)``.

    Attributes:
        channels: of its input.
        eps: added to the variance.
        momentum: the share of the new value in the running statistics, as in PyTorch.
        scale: whether it has a learned scale.
        shift: whether it has a learned shift.
        zero_init: whether the scale starts at 0; this changes no arithmetic.
        axes: of its input, 4 or 2.
    """

    channels: Count
    eps: Share
    momentum: Share
    scale: bool = True
    shift: bool = True
    zero_init: bool = False
    axes: Axes = 4

    def settings(self) -> dict[str, float]:
        return {"eps": self.eps, "momentum": self.momentum}

    def arrays(self) -> Arrays:
        arrays = _scale_and_shift(self.channels, 0.0 if self.zero_init else 1.0)
        absent = {"weight": not self.scale, "bias": not self.shift}
        return {name: array for name, array in arrays.items() if not absent[name]} | {
            "running_mean": ArraySpec((self.channels,)),
            "running_var": ArraySpec((self.channels,), 1.0, NEAR_1),
        }

    def output_shape(self, shape: Shape, /) -> Shape:
        return expect(shape, self.axes, self.channels)


@dataclass(frozen=True, slots=True)
class GroupNorm(Node):
    """Normalisation of every image over ``groups`` groups of channels (Wu and He 2018), with a scale and a shift."""

    channels: Count
    groups: Count
    eps: Share

    def settings(self) -> dict[str, float]:
        return {"eps": self.eps, "groups": self.groups}

    def arrays(self) -> Arrays:
        return _scale_and_shift(self.channels)

    def output_shape(self, shape: Shape, /) -> Shape:
        _expect_groups(self.groups, self.channels)
        return expect(shape, 4, self.channels)


def _expect_groups(groups: int, *channels: int) -> None:
    """Raise ShapeError if groups do not divide channels."""
    for count in channels:
        if count % groups:
            raise ShapeError(f"{groups} groups do not divide {count} channels")


def _scale_and_shift(channels: int, start: float = 1.0) -> Arrays:
    shape = (channels,)
    return {"weight": ArraySpec(shape, start, NEAR_1), "bias": ArraySpec(shape, 0.0, ("normal", 0.5, 0.1))}


@dataclass(frozen=True, slots=True)
class Activation(Node):
    """A function of each value; ``softmax`` is over the channels."""

    function: Literal["relu", "sigmoid", "tanh", "softmax"]

    @property
    def kind(self) -> str:
        return self.function


@dataclass(frozen=True, slots=True)
class LeakyReLU(Node):
    """``max(x, 0) + slope * min(x, 0)``, with a constant slope. ``float32`` as in :class:`PReLU`."""

    slope: Constant
    float32: bool = False

    def settings(self) -> dict[str, float]:
        return {"slope": self.slope}


@dataclass(frozen=True, slots=True)
class Clip(Node):
    """Values below ``low`` become ``low``, those above ``high`` become ``high``; 0 and 6 give ReLU6."""

    low: Constant
    high: Constant

    def settings(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class PReLU(Node):
    """``max(x, 0) + weight * min(x, 0)``: a learned slope, 0.25 at the start (He et al. 2015a).

    There is a slope for each channel; with ``channels`` of 1, a single one for any number of channels.

    MXNet's own operator multiplies in float32 in float64 networks too. ``float32`` says to do the same; in float32 it
    makes no difference.
    """

    channels: Count
    float32: bool = False

    def arrays(self) -> Arrays:
        return {"weight": ArraySpec((self.channels,), 0.25, ("uniform", 0.1, 0.6))}

    def output_shape(self, shape: Shape, /) -> Shape:
        return expect(shape, 4, self.channels if self.channels > 1 else None)


@dataclass(frozen=True, slots=True)
class Scale(Node):
    """``(x - shift) * scale`` with constants: one for each channel or one for all. Preprocessing, for example."""

    shift: tuple[Constant, ...] = (0.0,)
    scale: tuple[Constant, ...] = (1.0,)

    def settings(self) -> dict[str, float]:
        values = {"shift": self.shift, "scale": self.scale}
        return {f"{word} {n}": value for word, listed in values.items() for n, value in enumerate(listed)}

    def output_shape(self, shape: Shape, /) -> Shape:
        for values in (self.shift, self.scale):
            if len(values) != 1:
                expect(shape, 4, len(values))
        return shape


@dataclass(frozen=True, slots=True)
class Dropout(Node):
    """In training, each value becomes 0 with the probability ``rate``, and the others are divided by 1 − ``rate``."""

    rate: Share

    def settings(self) -> dict[str, float]:
        return {"rate": self.rate}


@dataclass(frozen=True, slots=True)
class Pad(Node):
    """``after`` zeros below and to the right: ``(N, C, H, W)`` to ``(N, C, H + after, W + after)``."""

    after: Window

    def output_shape(self, shape: Shape, /) -> Shape:
        return (*expect(shape, 4)[:2], *(size + self.after for size in shape[2:]))


@dataclass(frozen=True, slots=True)
class Pool(Node):
    """Pooling over square windows; ``ceil`` rounds the output's size up.

    A mean divides by the number of pixels in the image, or with ``counts_padding`` by those in the padding too.
    """

    operation: Literal["max", "avg"]
    kernel: Window
    stride: Window
    padding: Padding = 0
    ceil: bool = False
    counts_padding: bool = False

    @property
    def kind(self) -> str:
        return f"{self.operation}pool"

    def settings(self) -> dict[str, float]:
        counts_padding = None if self.operation == "max" else self.counts_padding
        return pool_settings(self.kernel, self.stride, self.padding, ceil=self.ceil, counts_padding=counts_padding)

    def output_shape(self, shape: Shape, /) -> Shape:
        if 2 * self.padding > self.kernel:
            raise ShapeError(f"a padding of {self.padding} is more than half of the window of {self.kernel}")
        return (
            *expect(shape, 4)[:2],
            *(windows(n, self.kernel, self.stride, self.padding, self.ceil) for n in shape[2:]),
        )


@dataclass(frozen=True, slots=True)
class RadixSum(Node):
    """The sum of ``radix`` groups of channels: ``(N, radix·C, H, W)`` to ``(N, C, H, W)``.

    A split attention (Zhang et al. 2020; timm's ``SplitAttn``) is a :class:`Gate` and this sum. The children of the
    gate begin with this sum too, and end with :class:`RadixSoftmax`.
    """

    radix: Count

    def output_shape(self, shape: Shape, /) -> Shape:
        batch, channels, *sizes = expect(shape, 4)
        if channels % self.radix:
            raise ShapeError(f"{channels} channels are no multiple of the radix {self.radix}")
        return (batch, channels // self.radix, *sizes)


@dataclass(frozen=True, slots=True)
class RadixSoftmax(Node):
    """Softmax over ``radix``. The shape ``(N, radix·C, 1, 1)`` stays; the order of the channels changes.

    The input's channels are ``(cardinality, radix, C / cardinality)``, as a convolution with ``cardinality`` groups
    returns them; the output's are ``(radix, C)``, as :class:`RadixSum` takes them.
    """

    radix: Count
    cardinality: Count = 1

    def output_shape(self, shape: Shape, /) -> Shape:
        if expect(shape, 4)[1] % (self.radix * self.cardinality) or shape[2:] != (1, 1):
            raise ShapeError(f"expected (N, multiple of {self.radix * self.cardinality}, 1, 1), got {shape}")
        return shape


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

    in_features: Count
    out_features: Count
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
