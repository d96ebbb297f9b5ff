"""Exact changes of a network that make it faster on a GPU's tensor cores, in bfloat16 and float16.

Most of a residual network's time on a GPU is memory traffic: a convolution writes its output, and the bias, the sum
and the ReLU after it each read and write it again. cuDNN has kernels that do all four in one pass. And its kernels are
slow for an image's few channels, so a strided convolution of the image becomes one of 2×2 pixels side by side.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional

from resnet_xf_torch.builder import ResidualBlock, replace_convolutions

FEW_CHANNELS = 4
"""The most input channels of a convolution for which 2×2 pixels side by side are faster."""

ALIGNED = 8
"""Tensor cores read this many channels at once; missing ones are zeros."""


class SpaceToDepthConv2d(nn.Conv2d):
    """A convolution with stride 2 as one with stride 1 of 2×2 blocks of pixels, whose channels stand side by side.

    A kernel of 7×7 on 3 channels becomes one of 4×4 on 12. It shares the weights of the original, by the same names.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        settings: dict[str, Any] = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
        super().__init__(conv.in_channels, conv.out_channels, **settings, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(*self._rearranged(x, self.weight), self.bias)

    def _rearranged(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images ``(N, 4 C, H', W')`` and kernels ``(out, 4 C, k, k)``, with zeros up to a multiple of 8."""
        image_sides: list[int] = []
        kernel_sides: list[int] = []
        paddings: Any = self.padding
        for size, kernel, padding in zip(x.shape[2:], self.kernel_size, paddings, strict=True):
            first = padding % 2  # zeros before the kernel, so that it begins at an even pixel
            last = (kernel + first) % 2
            before = padding + first
            outputs = (size + 2 * padding - kernel) // 2 + 1
            after = 2 * (outputs - 1) + first + kernel + last - before - size
            image_sides = [before, after, *image_sides]  # the last axis comes first
            kernel_sides = [first, last, *kernel_sides]
        channels = -4 * self.in_channels % ALIGNED
        pairs = (x, image_sides), (weight, kernel_sides)
        blocks = (functional.pixel_unshuffle(functional.pad(tensor, sides), 2) for tensor, sides in pairs)
        images, kernels = (functional.pad(tensor, (0, 0, 0, 0, 0, channels)) for tensor in blocks)
        return (
            images.contiguous(memory_format=torch.channels_last),
            kernels.contiguous(memory_format=torch.channels_last),
        )


class PooledStem(nn.Module):
    """ImageNet's stem for inference, ``maxpool(relu(conv(x)))``, on 4×4 blocks of pixels.

    A block has four outputs of the 7×7 convolution with stride 2, which become channels of a 3×3 convolution of blocks.
    The 3×3 pool with stride 2 takes the maximum of a block's four, and of five next to it.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        starts = (1, 3)  # where the kernels of a block's two rows, or columns, begin in 3 × 4 pixels
        kernels = [functional.pad(conv.weight, (left, 5 - left, top, 5 - top)) for top in starts for left in starts]
        self.kernels = nn.Parameter(functional.pixel_unshuffle(torch.cat(kernels), 4), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.repeat(4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 4 or x.shape[3] % 4:
            return functional.max_pool2d(functional.relu(self.conv(x)), 3, 2, 1)
        blocks = functional.pixel_unshuffle(x, 4).contiguous(memory_format=torch.channels_last)
        outputs = functional.relu(functional.conv2d(blocks, self.kernels, self.bias, padding=1))
        above_left, above_right, below_left, below_right = outputs.chunk(4, 1)
        left, right = (
            torch.maximum(torch.maximum(above, below), functional.pad(below, (0, 0, 1, -1)))  # zeros: all are positive
            for above, below in ((above_left, below_left), (above_right, below_right))
        )
        return torch.maximum(torch.maximum(left, right), functional.pad(right, (1, -1)))


class ConvReLU(nn.Module):
    """``relu(conv(x))``, or ``relu(conv(x) + shortcut)``, in one pass of cuDNN; for inference only."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        bias = conv.bias if conv.bias is not None else torch.zeros_like(conv.weight[:, 0, 0, 0])
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        conv = self.conv
        output: torch.Tensor = conv_relu(x, shortcut, conv.weight, self.bias, conv.stride, conv.padding)
        return output


@torch.library.custom_op("resnet_xf::conv_relu", mutates_args=(), device_types="cuda")
def conv_relu(
    x: torch.Tensor,
    shortcut: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    """Return ``relu(conv(x) + shortcut)`` by one kernel of cuDNN."""
    settings = stride, padding, (1, 1), 1
    if shortcut is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *settings)
    return torch.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, *settings)


@conv_relu.register_kernel("cpu")
def _(x: Any, shortcut: Any, weight: Any, bias: Any, stride: Any, padding: Any) -> torch.Tensor:
    output = functional.conv2d(x, weight, bias, stride, padding)
    return functional.relu(output if shortcut is None else output + shortcut)


@conv_relu.register_fake
def _(x: Any, shortcut: Any, weight: Any, bias: Any, stride: Any, padding: Any) -> torch.Tensor:
    output = functional.conv2d(x, weight, bias, stride, padding)
    return output.to(memory_format=torch.channels_last)


def with_wide_stem(network: nn.Module) -> bool:
    """Replace a stem's convolution of stride 2 and few channels; return whether there was one."""

    def is_stem(conv: nn.Conv2d) -> bool:
        return _is_plain(conv) and conv.in_channels <= FEW_CHANNELS and conv.stride == (2, 2)

    return replace_convolutions(_containers(network), is_stem, SpaceToDepthConv2d)


def with_pooled_stem(network: nn.Module) -> bool:
    """Join the convolution, ReLU and pool of ImageNet's stem, for inference; return whether the network has them."""
    if type(network) is not nn.Sequential:
        return False
    for names in zip(*(list(network._modules)[start:] for start in range(3)), strict=False):
        conv, relu, pool = (getattr(network, name) for name in names)
        if (
            _is_plain(conv)
            and (conv.in_channels <= FEW_CHANNELS and conv.kernel_size == (7, 7) and conv.padding == (3, 3))
            and (conv.stride == (2, 2) and type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d)
            and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, 2, 1, False)
        ):
            for name, module in zip(names, (nn.Identity(), nn.Identity(), PooledStem(conv)), strict=True):
                setattr(network, name, module)
            return True
    return False


def with_fused_convolutions(network: nn.Module) -> bool:
    """Join convolutions with the ReLU, and the sum of a residual block, after them; return whether there were any.

    The joined layer takes the place of the ReLU or the sum. The others become :class:`torch.nn.Identity`.
    """
    count = 0
    for parent in _containers(network):
        if isinstance(parent, ResidualBlock):
            node: Any = parent.node
            body, post = ([name for name, _ in part] for part in (node.body, node.post))
            count += sum(_join(parent, first, last, last) for first, last in pairwise(body))
            if post and _join(parent, body[-1], post[0], "add"):
                _move_bias(parent.downsample, parent.add)
                count += 1
        else:
            count += sum(_join(parent, first, last, last) for first, last in pairwise(parent._modules))
    return count > 0


def _containers(network: nn.Module) -> list[nn.Module]:
    """Return the residual blocks and sequences of a network that the builder built; none of another library's."""
    built = type(network) is nn.Sequential
    return [module for module in network.modules() if built and isinstance(module, ResidualBlock | nn.Sequential)]


def _is_plain(conv: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return type(conv) is nn.Conv2d and conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def _join(parent: nn.Module, first: str, last: str, place: str) -> bool:
    """Put a convolution joined with a ReLU at a place in the parent; return whether both are plain ones."""
    conv, relu = getattr(parent, first), getattr(parent, last)
    if not _is_plain(conv) or type(relu) is not nn.ReLU:
        return False
    for name in (first, last):
        setattr(parent, name, nn.Identity())
    setattr(parent, place, ConvReLU(conv))
    return True


def _move_bias(shortcut: nn.Module | None, joined: Any) -> None:
    """Add the bias of the shortcut's last convolution to that of the layer that adds the shortcut."""
    conv = [module for module in shortcut.modules() if not list(module.children())][-1] if shortcut else None
    if _is_plain(conv) and conv.bias is not None:
        joined.bias += conv.bias
        conv.bias = None
