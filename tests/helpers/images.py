"""The input tensors that a transform makes of images."""

from __future__ import annotations

import numpy as np

from resnet_xf.data import Transform
from resnet_xf.data.splits import Split


def tensor(transform: Transform, split: Split, indices: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """Return images as ``(B, C, H, W)``: for training with random numbers ``(B, DRAWS)``, for a test without."""
    return np.asarray(transform.pixels(transform.bytes(split, indices, draws), draws))
