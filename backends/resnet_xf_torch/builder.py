"""Build PyTorch modules from nodes: one kind of ``torch.nn.Module`` for each kind of node."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node


def build(node: Node, *, fresh: bool = False) -> nn.Module:
    """Build the module of a node. Submodules have the names of the child nodes.

    Set ``fresh`` if no other module reads the input tensor: then the module may work in place.
    """
    match node:
        case nodes.Conv():
            return nn.Conv2d(
                node.in_channels,
                node.out_channels,
                node.kernel,
                stride=node.stride,
                padding=node.padding,
                dilation=node.dilation,
                groups=node.groups,
                bias=node.bias,
            )
        case nodes.Norm():
            return nn.BatchNorm2d(node.channels, eps=node.eps, momentum=node.momentum, affine=node.affine)
        case nodes.Activation(function="relu"):
            return nn.ReLU(inplace=fresh)
        case nodes.Activation(function="sigmoid"):
            return nn.Sigmoid()
        case nodes.PReLU():
            return nn.PReLU(node.channels)
        case nodes.Pad():
            return nn.ZeroPad2d((0, node.after, 0, node.after))
        case nodes.Pool(operation="max"):
            return nn.MaxPool2d(node.kernel, node.stride, node.padding, ceil_mode=node.ceil)
        case nodes.Pool(operation="avg"):
            return nn.AvgPool2d(node.kernel, node.stride, node.padding, ceil_mode=node.ceil, count_include_pad=False)
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
        """Both ``(N, C, H, W)``."""
        body += shortcut
        return body


class _Named(nn.Module):
    """A module that runs groups of its children."""

    def _register(self, children: Children, *, fresh: bool = False, kept: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Build the children and return their names. Outputs of those in ``kept`` are also read elsewhere."""
        for name, child in children:
            self.add_module(name, build(child, fresh=fresh))
            fresh = name not in kept
        return tuple(name for name, _ in children)

    def _run(self, names: tuple[str, ...], x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = self._modules[name](x)  # type: ignore[misc]
        return x


class FeatureMaps(_Named):
    """A backbone: returns the outputs of the tapped children."""

    def __init__(self, node: nodes.Taps) -> None:
        super().__init__()
        self.layers = self._register(node.children, kept=node.names)
        self.names = node.names

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """``(N, C, H, W)`` to one feature map ``(N, C', H', W')`` for each name, in order."""
        maps = []
        for name in self.layers:
            x = self._run((name,), x)
            if name in self.names:
                maps.append(x)
        return maps


class ResidualBlock(_Named):
    """``post(add(body(pre(x)), shortcut))``."""

    def __init__(self, node: nodes.Residual) -> None:
        super().__init__()
        self.pre = self._register(node.pre)
        self.body = self._register(node.body)
        self.downsample = build(node.shortcut) if node.shortcut else None
        self.shortcut_from = node.shortcut_from
        self.add = build(nodes.Add())
        self.post = self._register(node.post, fresh=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to ``(N, C', H', W')``."""
        before = self._run(self.pre, x)
        body = self._run(self.body, before)
        if self.downsample is not None:
            x = self.downsample(x if self.shortcut_from == "input" else before)
        return self._run(self.post, self.add(body, x))


class ChannelGate(_Named):
    """``x * body(x)``."""

    def __init__(self, node: nodes.Gate) -> None:
        super().__init__()
        self.body = self._register(node.children)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to the same."""
        return x * self._run(self.body, x)
