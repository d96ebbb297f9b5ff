"""The settings of convolutions and poolings by name, the same for nodes and for the layers of any framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Size: TypeAlias = int | Sequence[int]
"""A number of pixels, or a pair: of the height and of the width."""


def window_settings(kernel: Size, stride: Size, padding: Size, dilation: Size = 1, **others: float) -> dict[str, float]:
    """The settings of a convolution or a pooling, by name. Those that change nothing are left out.

    Example::

        window_settings(3, 2, (1, 0))["padding width"]  # 0
    """
    settings: dict[str, float] = dict(others)
    sizes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    pairs = {name: (size, size) if isinstance(size, int) else tuple(size) for name, size in sizes.items()}
    for axis, word in enumerate(("height", "width")):
        for name, pair in pairs.items():
            if name != "dilation" or pairs["kernel"][axis] > 1:
                settings[f"{name} {word}"] = pair[axis]
    return settings


def pool_settings(
    kernel: Size, stride: Size, padding: Size, *, ceil: bool, counts_padding: bool | None, dilation: Size = 1
) -> dict[str, float]:
    """The settings of a pooling; ``counts_padding`` is None for one that takes the largest value."""
    padded = padding > 0 if isinstance(padding, int) else any(padding)
    counts = {"counts padding": float(counts_padding)} if padded and counts_padding is not None else {}
    return window_settings(kernel, stride, padding, dilation, ceil=float(ceil), **counts)
