"""How Gluon's networks are written as source."""

from __future__ import annotations

import inspect
import re
from typing import Any

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Node
from resnet_xf.backend.dialect import Dialect, call
from resnet_xf_mxnet import builder


def layer(node: Node) -> str:
    """The expression that makes a layer."""
    match node:
        case nodes.Conv(channels, out, kernel, stride, padding, dilation, groups, bias):
            options = {
                "strides": (stride, 1),
                "padding": (padding, 0),
                "dilation": (dilation, 1),
                "groups": (groups, 1),
            }
            return call("nn.Conv2D", out, kernel, **options, use_bias=(bias, True), in_channels=(channels, 0))
        case nodes.Norm(channels, eps, momentum, scale, shift):
            norms: dict[str, tuple[Any, Any]] = {
                "momentum": (round(1 - momentum, 12), 0.9),
                "epsilon": (eps, 1e-5),
                "center": (shift, True),
                "scale": (scale, True),
            }
            return call("nn.BatchNorm", **norms, in_channels=(channels, 0))
        case nodes.GroupNorm(channels, groups, eps):
            return f"GroupNorm({channels}, {groups}, {eps!r}, None)"
        case nodes.Activation(function="softmax"):
            return "Function(_softmax)"
        case nodes.Activation(function):
            return f'nn.Activation("{function}")'
        case nodes.LeakyReLU(slope):
            return f"nn.LeakyReLU({slope!r})"
        case nodes.Clip(low, high):
            return f"Function(_clip, {low!r}, {high!r})"
        case nodes.PReLU(channels):
            return call("nn.PReLU", in_channels=(channels, 1))
        case nodes.Scale(shift, scale):
            return f"Function(_scale, {shift!r}, {scale!r})"
        case nodes.Dropout(rate):
            return f"nn.Dropout({rate!r})"
        case nodes.Pad(after):
            return f"Function(_pad, {after})"
        case nodes.Pool(operation, kernel, stride, padding, ceil, counts):
            options = {"padding": (padding, 0), "ceil_mode": (ceil, False)}
            if operation == "max":
                return call("nn.MaxPool2D", kernel, stride, **options)
            return call("nn.AvgPool2D", kernel, stride, **options, count_include_pad=(counts or padding == 0, True))
        case nodes.RadixSum(radix):
            return f"Function(_radix_sum, {radix})"
        case nodes.RadixSoftmax(radix, cardinality):
            return f"Function(_radix_softmax, {radix}, {cardinality})"
        case nodes.GlobalPool():
            return "nn.GlobalAvgPool2D()"
        case nodes.Flatten():
            return "nn.Flatten()"
        case nodes.Linear(inputs, outputs, bias):
            return call("nn.Dense", outputs, use_bias=(bias, True), in_units=(inputs, 0))
    raise TypeError(f"{node!r} is not a layer")


FUNCTIONS = (
    builder._softmax,
    builder._clip,
    builder._scale,
    builder._pad,
    builder._radix_sum,
    builder._radix_softmax,
    builder.GroupNorm,
)

FUNCTION = '''
class Function(nn.HybridBlock):
    """A layer without weights: a function of arguments, of ``F`` and of its input."""

    def __init__(self, function, *arguments):
        super().__init__()
        self.function, self.arguments = function, arguments

    def hybrid_forward(self, F, x):
        return self.function(*self.arguments, F, x)
'''

IDENTITY = '''
class Identity(nn.HybridBlock):
    """Changes nothing."""

    def hybrid_forward(self, F, x):
        return x
'''

SEQUENTIAL = '''
def sequential(*layers, **named):
    """Layers one after another, numbered or with names."""
    network = nn.HybridSequential()
    network.add(*layers)
    for name, block in named.items():
        network.register_child(block, name)
    return network
'''

GATE = '''
class Gate(nn.HybridSequential):
    """Multiplies the input by what the layers make of it."""

    def __init__(self, **named):
        super().__init__()
        for name, block in named.items():
            self.register_child(block, name)

    def hybrid_forward(self, F, x):
        return F.broadcast_mul(x, super().hybrid_forward(F, x))
'''

DIALECT = Dialect(
    title="Apache MXNet Gluon",
    imports=({"Any": "from typing import Any"}, {"mx": "import mxnet as mx", "nn": "from mxnet.gluon import nn"}),
    module="nn.HybridBlock",
    forward="hybrid_forward(self, F, x)",
    layer=layer,
    sequence="sequential",
    named_sequence="sequential({})",
    gate="Gate({})",
    identity="Identity()",
    helpers={
        **{one.__name__: re.sub("  # noqa.*", "", inspect.getsource(one)) for one in FUNCTIONS},
        "Function": FUNCTION,
        "Identity": IDENTITY,
        "sequential": SEQUENTIAL,
        "Gate": GATE,
    },
    load='from model import ResNet\nnetwork = ResNet()\nnetwork.load_parameters("weights.params")',
)
