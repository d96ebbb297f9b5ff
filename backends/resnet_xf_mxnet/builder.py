"""Build Gluon blocks from nodes: one kind of ``HybridBlock`` for each kind of node."""

from __future__ import annotations

from typing import Any

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, join
from resnet_xf_mxnet.arrays import as_kind, is_numpy, kind
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
        case nodes.Norm(channels, eps, momentum, affine):
            return nn.BatchNorm(
                momentum=1 - momentum, epsilon=eps, center=affine, scale=affine, in_channels=channels, prefix=prefix
            )
        case nodes.Activation(function=function):
            return nn.Activation(function, prefix=prefix)
        case nodes.PReLU():
            return ExactPReLU(in_channels=node.channels, prefix=prefix)
        case nodes.Pad():
            return ZeroPad(node.after, prefix=prefix)
        case nodes.Pool("max", kernel, stride, padding, ceil):
            return nn.MaxPool2D(kernel, stride, padding, ceil_mode=ceil, prefix=prefix)
        case nodes.Pool("avg", kernel, stride, padding, ceil):
            return nn.AvgPool2D(kernel, stride, padding, ceil_mode=ceil, count_include_pad=False, prefix=prefix)
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


class ExactPReLU(mx.gluon.nn.PReLU):
    """Gluon's PReLU in the dtype of its input. MXNet's operator multiplies in float32, even for float64."""

    def hybrid_forward(self, F: Any, x: Any, alpha: Any) -> Any:  # noqa: N803
        return F.where(x > 0, x, F.broadcast_mul(x, alpha.reshape((1, -1, 1, 1))))


class ZeroPad(mx.gluon.HybridBlock):
    """Zeros below and to the right."""

    def __init__(self, after: int, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.width = (0, 0, 0, 0, 0, after, 0, after)

    def __repr__(self) -> str:
        return f"ZeroPad{self.width[4:]}"

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return F.pad(x, mode="constant", constant_value=0, pad_width=self.width)


class Sum(mx.gluon.HybridBlock):
    """Add the shortcut to the body."""

    def __repr__(self) -> str:
        return "Sum()"

    def hybrid_forward(self, F: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
        return body + shortcut


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
