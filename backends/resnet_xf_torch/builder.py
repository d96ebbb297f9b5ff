"""Build PyTorch modules from nodes: one kind of ``torch.nn.Module`` for each kind of node."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node


def build_empty(node: Node, dtype: torch.dtype) -> nn.Module:
    """Build a module on the CPU: variances of 1, all else 0. Weights are loaded next, and to draw takes long."""
    with torch.device("meta"):  # shapes without memory
        network = build(node)
    for module in network.modules():  # as to_empty() does, which is slow for small ones
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            values = torch.full(tensor.shape, float(name == "running_var"), dtype=kind, device="cpu")
            setattr(module, name, nn.Parameter(values) if isinstance(tensor, nn.Parameter) else values)
    return network


def build(node: Node, *, fresh: bool = False) -> nn.Module:
    """Build the module of a node. Submodules have the names of the child nodes.

    Set ``fresh`` if nothing else reads the input tensor, of a sum the first one: then the module works in place.
    """
    match node:
        case nodes.Conv(channels, out, kernel, stride, padding, dilation, groups, bias):
            return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias)
        case nodes.Norm():
            return _norm(node)
        case nodes.GroupNorm(channels, groups, eps):
            return nn.GroupNorm(groups, channels, eps)
        case nodes.Activation(function="relu"):
            return nn.ReLU(inplace=fresh)
        case nodes.Activation(function="sigmoid"):
            return nn.Sigmoid()
        case nodes.Activation(function="tanh"):
            return nn.Tanh()
        case nodes.Activation(function="softmax"):
            return nn.Softmax(1)
        case nodes.LeakyReLU(slope, float32):
            return (Float32LeakyReLU if float32 else nn.LeakyReLU)(slope)
        case nodes.Clip(low, high):
            return Clip(low, high)
        case nodes.PReLU(channels, float32):
            return (Float32PReLU if float32 else nn.PReLU)(channels)
        case nodes.Scale(shift, scale):
            return Scale(shift, scale)
        case nodes.Dropout(rate):
            return nn.Dropout(rate)
        case nodes.Pad():
            return nn.ZeroPad2d((0, node.after, 0, node.after))
        case nodes.Pool("max", kernel, stride, padding, ceil):
            return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        case nodes.Pool("avg", kernel, stride, padding, ceil, counts_padding):
            return nn.AvgPool2d(kernel, stride, padding, ceil, counts_padding)
        case nodes.RadixSum(radix):
            return RadixSum(radix)
        case nodes.RadixSoftmax(radix, cardinality):
            return RadixSoftmax(radix, cardinality)
        case nodes.GlobalPool():
            return nn.AdaptiveAvgPool2d(1)
        case nodes.Flatten():
            return nn.Flatten()
        case nodes.Linear():
            return nn.Linear(node.in_features, node.out_features, bias=node.bias)
        case nodes.Add():
            return Sum(inplace=fresh)
        case nodes.Sequential():
            before = (False, *(is_fresh(child) for _, child in node.children))
            built = ((name, build(child, fresh=new)) for (name, child), new in zip(node.children, before, strict=False))
            return nn.Sequential(OrderedDict(built))
        case nodes.Taps():
            return FeatureMaps(node)
        case nodes.Residual():
            return ResidualBlock(node)
        case nodes.Gate():
            return ChannelGate(node)
    raise TypeError(f"{node!r} is not a node")


def is_fresh(node: Node) -> bool:
    """Return whether a node's output is a new tensor, and no gradient is computed from its values."""
    match node:
        case nodes.Sequential(children=(*_, (_, last))):
            return is_fresh(last)
        case _:
            kinds = nodes.Conv | nodes.Norm | nodes.GroupNorm | nodes.Linear | nodes.Add | nodes.Gate
            return isinstance(node, kinds)


def _norm(node: nodes.Norm) -> nn.Module:
    """Build a batch norm. PyTorch's own has a scale and a shift or neither, but computes with any of them."""
    kind = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[node.axes]
    norm = kind(node.channels, node.eps, node.momentum, node.scale and node.shift)
    if node.scale != node.shift:
        word, start = ("weight", 1.0) if node.scale else ("bias", 0.0)
        setattr(norm, word, nn.Parameter(torch.full((node.channels,), start)))
    return norm


class SubsampledConv2d(nn.Conv2d):
    """A 1×1 convolution with a stride, as one of every second pixel. It shares the weights of the original.

    oneDNN's gradient of a few channels' weights, in channels_last and on several threads, writes beyond its memory:
    PyTorch 2.14 on a processor with AVX-512, for less than 16 input channels, if the threads' shares of a batch differ.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 1, device="meta")
        self.steps, self.weight, self.bias = conv.stride, conv.weight, conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:, :, :: self.steps[0], :: self.steps[1]])


def without_onednn_s_overrun(network: nn.Module) -> None:
    """Replace the convolutions whose training in channels_last on a CPU may end the process."""

    def overruns(conv: nn.Conv2d) -> bool:
        narrow = conv.groups == 1 and conv.in_channels < 16
        return narrow and conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding == (0, 0)

    replace_convolutions(network.modules(), overruns, SubsampledConv2d)


def replace_convolutions(
    parents: Iterable[nn.Module], chosen: Callable[[nn.Conv2d], bool], new: Callable[[nn.Conv2d], nn.Module]
) -> bool:
    """Replace the convolutions that are chosen among the parents' children; return whether there were any."""
    found = [
        (parent, name, child)
        for parent in parents
        for name, child in parent.named_children()
        if type(child) is nn.Conv2d and chosen(child)
    ]
    for parent, name, conv in found:
        setattr(parent, name, new(conv))
    return bool(found)


class Float32PReLU(nn.PReLU):
    """A PReLU whose products are rounded to float32, as MXNet's operator does in float64 networks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float64:
            return super().forward(x)
        return torch.where(x > 0, x, nn.functional.prelu(x.float(), self.weight.float()).double())


class Float32LeakyReLU(nn.LeakyReLU):
    """A leaky ReLU whose products are rounded to float32, as MXNet's operator does in float64 networks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float64:
            return super().forward(x)
        return torch.where(x > 0, x, nn.functional.leaky_relu(x.float(), self.negative_slope).double())


class Scale(nn.Module):
    """``(x - shift) * scale``. The constants are no part of the ``state_dict``."""

    def __init__(self, shift: tuple[float, ...], scale: tuple[float, ...]) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self._constant(self.shift, x)) * self._constant(self.scale, x)

    def _constant(self, values: Any, x: torch.Tensor) -> torch.Tensor | float:
        """Return a number, or one for each channel, made on the device."""
        if len(values) == 1:
            return float(values[0])
        return torch.cat([x.new_full((1, 1, 1), value) for value in values])


class Clip(nn.Module):
    """Limit values, with a gradient of 1 at the limits as in MXNet."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high)


class RadixSum(nn.Module):
    """Sum ``radix`` groups of channels."""

    def __init__(self, radix: int) -> None:
        super().__init__()
        self.radix = radix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], self.radix, -1, *x.shape[2:]).sum(1)


class RadixSoftmax(nn.Module):
    """Softmax over ``radix``; the channels become radix-major."""

    def __init__(self, radix: int, cardinality: int) -> None:
        super().__init__()
        self.groups = cardinality, radix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.reshape(x.shape[0], *self.groups, -1).transpose(1, 2)
        return grouped.softmax(1).reshape(x.shape)


class Sum(nn.Module):
    """Add the shortcut to the body, in place if nothing else reads the body's output."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, body: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return body.add_(shortcut) if self.inplace else body + shortcut


class _Container(nn.Module):
    """A module whose children have the names in ``node``, and run as ``node`` says."""

    def __init__(self, node: nodes.Container) -> None:
        super().__init__()
        self.node = node

    def register(self, children: Children, *, fresh: bool = False, kept: tuple[str, ...] = ()) -> None:
        """Build a sequence of children. Outputs of those in ``kept`` are also read elsewhere."""
        for name, child in children:
            self.add_module(name, build(child, fresh=fresh))
            fresh = name not in kept and is_fresh(child)

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
        self.register((("add", nodes.Add()), *node.post), fresh=is_fresh(nodes.Sequential(node.body)))


class ChannelGate(_Container):
    """``x * body(x)``."""

    def __init__(self, node: nodes.Gate) -> None:
        super().__init__(node)
        self.register(node.children)
