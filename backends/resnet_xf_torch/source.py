"""How PyTorch's networks are written as source."""

from __future__ import annotations

import inspect
from typing import Any

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Node
from resnet_xf.backend.dialect import Dialect, call
from resnet_xf_torch import builder


def layer(node: Node) -> str:
    """The expression that makes a layer. PReLUs and leaky ReLUs are PyTorch's own: in float32 they are MXNet's too."""
    match node:
        case nodes.Conv(channels, out, kernel, stride, padding, dilation, groups, bias):
            options = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1), "groups": (groups, 1)}
            return call("nn.Conv2d", channels, out, kernel, **options, bias=(bias, True))
        case nodes.Norm(channels, eps, momentum, scale, shift):
            kind = {(True, True): "nn.BatchNorm", (False, True): "ShiftBatchNorm", (True, False): "ScaleBatchNorm"}
            name = f"{kind.get((scale, shift), 'nn.BatchNorm')}{1 if node.axes == 2 else 2}d"
            norms: dict[str, tuple[Any, Any]] = {
                "eps": (eps, 1e-5),
                "momentum": (momentum, 0.1),
                "affine": (scale or shift, True),
            }
            return call(name, channels, **norms)
        case nodes.GroupNorm(channels, groups, eps):
            return call("nn.GroupNorm", groups, channels, eps=(eps, 1e-5))
        case nodes.Activation(function="softmax"):
            return "nn.Softmax(1)"
        case nodes.Activation(function):
            return {"relu": "nn.ReLU()", "sigmoid": "nn.Sigmoid()", "tanh": "nn.Tanh()"}[function]
        case nodes.LeakyReLU(slope):
            return f"nn.LeakyReLU({slope!r})"
        case nodes.Clip(low, high):
            return f"Clip({low!r}, {high!r})"
        case nodes.PReLU(channels):
            return f"nn.PReLU({channels})"
        case nodes.Scale(shift, scale):
            return f"Scale({shift!r}, {scale!r})"
        case nodes.Dropout(rate):
            return f"nn.Dropout({rate!r})"
        case nodes.Pad(after):
            return f"nn.ZeroPad2d((0, {after}, 0, {after}))"
        case nodes.Pool(operation, kernel, stride, padding, ceil, counts):
            options = {"padding": (padding, 0), "ceil_mode": (ceil, False)}
            if operation == "max":
                return call("nn.MaxPool2d", kernel, stride, **options)
            return call("nn.AvgPool2d", kernel, stride, **options, count_include_pad=(counts or padding == 0, True))
        case nodes.RadixSum(radix):
            return f"RadixSum({radix})"
        case nodes.RadixSoftmax(radix, cardinality):
            return f"RadixSoftmax({radix}, {cardinality})"
        case nodes.GlobalPool():
            return "nn.AdaptiveAvgPool2d(1)"
        case nodes.Flatten():
            return "nn.Flatten()"
        case nodes.Linear(inputs, outputs, bias):
            return call("nn.Linear", inputs, outputs, bias=(bias, True))
    raise TypeError(f"{node!r} is not a layer")


def _half_norm(word: str, other: str, start: str, axes: int) -> str:
    return f'''
class {word}BatchNorm{axes}d(nn.BatchNorm{axes}d):
    """A batch norm with a {word.lower()} and no {other}."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__(channels, eps, momentum, affine=False)
        self.{start} = nn.Parameter(torch.{"zeros" if start == "bias" else "ones"}(channels))
'''


GATE = '''
class Gate(nn.Sequential):
    """Multiplies the input by what the layers make of it."""

    def forward(self, x):
        return x * super().forward(x)
'''

DIALECT = Dialect(
    title="PyTorch",
    imports=(
        {"OrderedDict": "from collections import OrderedDict", "Any": "from typing import Any"},
        {"torch": "import torch", "nn": "from torch import nn"},
    ),
    module="nn.Module",
    forward="forward(self, x)",
    layer=layer,
    sequence="nn.Sequential",
    named_sequence="nn.Sequential(OrderedDict({}))",
    gate="Gate(OrderedDict({}))",
    identity="nn.Identity()",
    helpers={
        **{
            kind.__name__: inspect.getsource(kind)
            for kind in (builder.Scale, builder.Clip, builder.RadixSum, builder.RadixSoftmax)
        },
        **{f"ShiftBatchNorm{axes}d": _half_norm("Shift", "scale", "bias", axes) for axes in (1, 2)},
        **{f"ScaleBatchNorm{axes}d": _half_norm("Scale", "shift", "weight", axes) for axes in (1, 2)},
        "Gate": GATE,
    },
    load=(
        "import torch; from model import ResNet\n"
        "network = ResNet().eval()\n"
        'network.load_state_dict(torch.load("weights.pth"))'
    ),
)
