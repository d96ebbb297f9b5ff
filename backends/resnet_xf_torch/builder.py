"""Build PyTorch modules from nodes: one kind of ``torch.nn.Module`` for each kind of node."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node


def build(node: Node, *, fresh: bool = False) -> nn.Module:
    """Build the module of a node. Submodules have the names of the child nodes.

    Set ``fresh`` if no other module reads the input tensor: then the module may work in place.
    """
    match node:
        case nodes.Conv(channels, out, kernel, stride, padding, dilation, groups, bias):
            return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias)
        case nodes.Norm(channels, eps, momentum, affine):
            return nn.BatchNorm2d(channels, eps, momentum, affine)
        case nodes.Activation(function="relu"):
            return nn.ReLU(inplace=fresh)
        case nodes.Activation(function="sigmoid"):
            return nn.Sigmoid()
        case nodes.PReLU():
            return nn.PReLU(node.channels)
        case nodes.Pad():
            return nn.ZeroPad2d((0, node.after, 0, node.after))
        case nodes.Pool("max", kernel, stride, padding, ceil):
            return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        case nodes.Pool("avg", kernel, stride, padding, ceil):
            return nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=False)
        case nodes.GlobalPool():
            return nn.AdaptiveAvgPool2d(1)
        case nodes.Flatten():
            return nn.Flatten()
        case nodes.Linear():
            return nn.Linear(node.in_features, node.out_features, bias=node.bias)
        case nodes.Add():
            return Sum()
        case nodes.Sequential():
            return nn.Sequential(OrderedDict((n, build(c, fresh=i > 0)) for i, (n, c) in enumerate(node.children)))
        case nodes.Taps():
            return FeatureMaps(node)
        case nodes.Residual():
            return ResidualBlock(node)
        case nodes.Gate():
            return ChannelGate(node)
    raise TypeError(f"{node!r} is not a node")


class Sum(nn.Module):
    """Add the shortcut to the body in place."""

    def forward(self, body: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        body += shortcut
        return body


class _Container(nn.Module):
    """A module whose children have the names in ``node``, and run as ``node`` says."""

    def __init__(self, node: nodes.Container) -> None:
        super().__init__()
        self.node = node

    def register(self, children: Children, *, fresh: bool = False, kept: tuple[str, ...] = ()) -> None:
        """Build a sequence of children. Outputs of those in ``kept`` are also read elsewhere."""
        for name, child in children:
            self.add_module(name, build(child, fresh=fresh))
            fresh = name not in kept

    def run(self, children: Children, *inputs: torch.Tensor) -> torch.Tensor:
        """Run a sequence of children."""
        for name, _ in children:
            inputs = (self._modules[name](*inputs),)  # type: ignore[misc]
        return inputs[0]

    def forward(self, x: torch.Tensor) -> Any:
        return self.node.flow(self.run, torch.mul, x)


class FeatureMaps(_Container):
    """A backbone: returns the list of the outputs of the tapped children."""

    def __init__(self, node: nodes.Taps) -> None:
        super().__init__(node)
        self.register(node.children, kept=node.names)


class ResidualBlock(_Container):
    """``post(add(body(pre(x)), shortcut))``."""

    def __init__(self, node: nodes.Residual) -> None:
        super().__init__(node)
        self.register(node.pre)
        self.register(node.body)
        self.downsample = build(node.shortcut) if node.shortcut else None
        self.register((("add", nodes.Add()), *node.post))


class ChannelGate(_Container):
    """``x * body(x)``."""

    def __init__(self, node: nodes.Gate) -> None:
        super().__init__(node)
        self.register(node.children)
