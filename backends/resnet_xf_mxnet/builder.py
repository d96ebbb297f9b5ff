"""Build Gluon blocks from nodes: one kind of ``HybridBlock`` for each kind of node."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, join
from resnet_xf_mxnet.arrays import as_kind, in_kind_of, is_numpy, kind
from resnet_xf_mxnet.numpy_compat import mx

nn = mx.gluon.nn


def build(node: Node, name: str = "") -> Any:
    """Build the block of a node. Child blocks have the names of the child nodes.

    ``name`` is the node's dotted name in the whole network. ``export`` writes Gluon's own parameter names, which start
    with it: ``layer1_0_conv1_weight``.
    """
    prefix = f"{name.replace('.', '_')}_" if name else ""
    match node:
        case nodes.Conv(channels, out, kernel, stride, padding, dilation, groups, bias):
            return nn.Conv2D(
                out, kernel, stride, padding, dilation, groups, use_bias=bias, in_channels=channels, prefix=prefix
            )
        case nodes.Norm(channels, eps, momentum, scale, shift):
            return nn.BatchNorm(
                momentum=1 - momentum, epsilon=eps, center=shift, scale=scale, in_channels=channels, prefix=prefix
            )
        case nodes.GroupNorm(channels, groups, eps):
            return GroupNorm(channels, groups, eps, prefix)
        case nodes.Activation(function="softmax"):
            return Function("Softmax()", _softmax, prefix)
        case nodes.LeakyReLU(slope, float32):
            exact = Function(repr(node), partial(_leaky, slope), prefix)
            return nn.LeakyReLU(slope, prefix=prefix) if float32 else exact
        case nodes.Clip(low, high):
            return Function(repr(node), partial(_clip, low, high), prefix)
        case nodes.Scale(shift, scale):
            return Function(repr(node), partial(_scale, shift, scale), prefix)
        case nodes.Dropout(rate):
            return nn.Dropout(rate, prefix=prefix)
        case nodes.RadixSum(radix):
            return Function(repr(node), partial(_radix_sum, radix), prefix)
        case nodes.RadixSoftmax(radix, cardinality):
            return Function(repr(node), partial(_radix_softmax, radix, cardinality), prefix)
        case nodes.Activation(function=function):
            return nn.Activation(function, prefix=prefix)
        case nodes.PReLU(channels, float32):
            return (nn.PReLU if float32 else ExactPReLU)(in_channels=channels, prefix=prefix)
        case nodes.Pad(after):
            return Function(f"ZeroPad{(0, after, 0, after)}", partial(_pad, after), prefix)
        case nodes.Pool("max", kernel, stride, padding, ceil):
            return nn.MaxPool2D(kernel, stride, padding, ceil_mode=ceil, prefix=prefix)
        case nodes.Pool("avg", kernel, stride, padding, ceil, counts):
            return nn.AvgPool2D(kernel, stride, padding, ceil_mode=ceil, count_include_pad=counts, prefix=prefix)
        case nodes.GlobalPool():
            return nn.GlobalAvgPool2D(prefix=prefix)
        case nodes.Flatten():
            return nn.Flatten(prefix=prefix)
        case nodes.Linear():
            return nn.Dense(node.out_features, use_bias=node.bias, in_units=node.in_features, prefix=prefix)
        case nodes.Add():
            return Sum(prefix=prefix)
        case nodes.Sequential():
            block = HybridSequential(prefix=prefix)
            for child_name, child in node.children:
                block.register_child(build(child, join(name, child_name)), child_name)
            return block
        case nodes.Taps():
            return FeatureMaps(node, name, prefix=prefix)
        case nodes.Residual():
            return ResidualBlock(node, name, prefix=prefix)
        case nodes.Gate():
            return ChannelGate(node, name, prefix=prefix)
    raise TypeError(f"{node!r} is not a node")


class _Unset(mx.init.Initializer):
    """Leaves a new array as it is: 0."""

    def _init_weight(self, name: Any, array: Any) -> None:
        pass


def initialize(network: Any, context: Any) -> None:
    """Make the arrays of a new network: variances of 1, all else 0. Weights are loaded next, and to draw takes long."""
    for param in network.collect_params().values():
        param.initialize(None if param.name.endswith("running_var") else _Unset(), ctx=context)


class ExactPReLU(mx.gluon.nn.PReLU):
    """Gluon's PReLU in the dtype of its input. MXNet's operator multiplies in float32, even for float64."""

    def hybrid_forward(self, F: Any, x: Any, alpha: Any) -> Any:  # noqa: N803
        return F.where(x > 0, x, F.broadcast_mul(x, alpha.reshape((1, -1, 1, 1))))


class GroupNorm(mx.gluon.HybridBlock):
    """Group norm with a scale and a shift for each channel. MXNet's own has them for each group."""

    def __init__(self, channels: int, groups: int, eps: float, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._groups, self._eps = groups, eps
        with self.name_scope():
            self.gamma = self.params.get("gamma", shape=(channels,), init="ones")
            self.beta = self.params.get("beta", shape=(channels,), init="zeros")

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any) -> Any:  # noqa: N803
        grouped = F.reshape(x, shape=(0, self._groups, -1))
        centred = F.broadcast_sub(grouped, F.mean(grouped, axis=2, keepdims=True))
        variance = F.mean(F.square(centred), axis=2, keepdims=True)
        normal = F.reshape_like(F.broadcast_div(centred, F.sqrt(variance + self._eps)), x)
        return F.broadcast_add(F.broadcast_mul(normal, gamma.reshape((1, -1, 1, 1))), beta.reshape((1, -1, 1, 1)))


class Function(mx.gluon.HybridBlock):
    """A layer without weights: ``function(F, x)``, where ``F`` is ``mx.nd`` or ``mx.sym``."""

    def __init__(self, name: str, function: Callable[[Any, Any], Any], prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._title, self._function = name, function

    def __repr__(self) -> str:
        return self._title

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self._function(F, x)


def _softmax(F: Any, x: Any) -> Any:  # noqa: N803
    return F.softmax(x, axis=1)


def _clip(low: float, high: float, F: Any, x: Any) -> Any:  # noqa: N803
    return F.clip(x, low, high)


def _leaky(slope: float, F: Any, x: Any) -> Any:  # noqa: N803
    """A leaky ReLU in the dtype of its input. MXNet's operator multiplies in float32, even for float64."""
    return F.where(x > 0, x, x * slope)


def _scale(shift: tuple[float, ...], scale: tuple[float, ...], F: Any, x: Any) -> Any:  # noqa: N803
    def constant(values: tuple[float, ...]) -> Any:
        """MXNet has no constant arrays; this one has the dtype of ``x``. To slice oneDNN's arrays crashes MXNet."""
        one = F.ones_like(F.mean(x, axis=(0, 1, 2, 3), keepdims=True))
        return F.concat(*(one * value for value in values), dim=1)

    x = F.broadcast_sub(x, constant(shift)) if len(shift) > 1 else x - shift[0]
    return F.broadcast_mul(x, constant(scale)) if len(scale) > 1 else x * scale[0]


def _radix_sum(radix: int, F: Any, x: Any) -> Any:  # noqa: N803
    return F.sum(F.reshape(x, shape=(0, -4, radix, -1, 0, 0)), axis=1)


def _radix_softmax(radix: int, cardinality: int, F: Any, x: Any) -> Any:  # noqa: N803
    groups = F.reshape(x, shape=(0, cardinality, radix, -1))
    groups = F.transpose(groups, axes=(0, 2, 1, 3))
    return F.reshape(F.softmax(groups, axis=1), shape=(0, -1, 1, 1))


def _pad(after: int, F: Any, x: Any) -> Any:  # noqa: N803
    return F.pad(x, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, after, 0, after))


class Sum(mx.gluon.HybridBlock):
    """Add the shortcut to the body."""

    def __repr__(self) -> str:
        return "Sum()"

    def hybrid_forward(self, F: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
        return body + shortcut


_in_own_kind = in_kind_of(lambda self, *args: self, pauses=False)


class _EitherKind(mx.gluon.HybridBlock):
    """A block that takes both kinds of arrays and returns the kind that it was given, before and after ``set_np()``."""

    def __call__(self, x: Any, *args: Any) -> Any:
        given = isinstance(x, mx.np.ndarray)
        if args or not isinstance(x, mx.nd.NDArray) or not (given or mx.util.is_np_array()):
            return super().__call__(x, *args)
        own = is_numpy(self)
        with kind(own):
            output = super().__call__(as_kind(x, own))
        return as_kind(output, given)

    # Gluon's own refuse the other kind of arrays.
    save_parameters = _in_own_kind(mx.gluon.HybridBlock.save_parameters)
    load_parameters = _in_own_kind(mx.gluon.HybridBlock.load_parameters)
    export = _in_own_kind(mx.gluon.HybridBlock.export)


class HybridSequential(_EitherKind, mx.gluon.nn.HybridSequential):
    """Gluon's own, for both kinds of arrays."""


class _Container(_EitherKind):
    """A block whose children have the names in ``node``, and run as ``node`` says."""

    def __init__(self, node: nodes.Container, name: str, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.node = node
        for child_name, child in node.named_children():  # attributes, because Gluon prints those
            setattr(self, child_name, build(child, join(name, child_name)))

    def run(self, children: Children, *inputs: Any) -> Any:
        """Run a sequence of children."""
        for name, _ in children:
            inputs = (self._children[name](*inputs),)
        return inputs[0]

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self.node.flow(self.run, F.broadcast_mul, x)


class FeatureMaps(_Container):
    """A backbone: returns the list of the outputs of the tapped children."""


class ResidualBlock(_Container):
    """``post(add(body(pre(x)), shortcut))``."""


class ChannelGate(_Container):
    """``x * body(x)``."""
