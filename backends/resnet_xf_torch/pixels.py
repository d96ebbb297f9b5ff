"""Input tensors from bytes on a GPU: gather, shift, mirror and look up. All of it is exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from resnet_xf.architecture.weights import Array
from resnet_xf.data.pixels import Pixels

SHARE = 1 / 8
"""The share of a GPU's free memory that a copy of kept images may take."""


class DevicePixels:
    """Makes input tensors of :class:`Pixels` on a device.

    Look-up tables stay on the device. So do images that are kept from epoch to epoch, if they fit in ``SHARE`` of its
    free memory; then only the batch's indices are sent.

    Args:
        send: copies an array to the device.
        device: the device.
    """

    def __init__(self, send: Callable[[Array], torch.Tensor], device: torch.device) -> None:
        self._send, self._device = send, device
        self._copies: dict[int, tuple[Array, torch.Tensor | None]] = {}  # by the array's id; holding it keeps the id

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """Return the input tensor, ``(B, C, H, W)`` float32 in channels_last, equal to ``np.asarray(pixels)``."""
        images = self._images(pixels)
        table = self._copy(pixels.normalisation.table)
        assert table is not None  # it always fits
        places = images.int() + torch.arange(0, table.numel(), 256, dtype=torch.int32, device=images.device)
        return table.flatten().index_select(0, places.flatten()).view(places.shape).permute(0, 3, 1, 2)

    def _images(self, pixels: Pixels) -> torch.Tensor:
        """Return the batch's bytes, shifted and mirrored: ``(B, H, W, C)``."""
        store = self._copy(pixels.store) if pixels.fixed else None
        if store is None:
            images = self._send(pixels.store if pixels.rows is None else pixels.store[pixels.rows])
        else:
            images = store if pixels.rows is None else store.index_select(0, self._send(pixels.rows))
        if pixels.corners is not None:
            images = cropped(images, pixels.padding, self._send(pixels.corners))
        if pixels.mirrored is not None:
            images = torch.where(self._send(pixels.mirrored)[:, None, None, None], images.flip(2), images)
        return images

    def _copy(self, array: Array) -> torch.Tensor | None:
        """Return a copy of an array on the device, the same one each time; None if it is too large."""
        if id(array) not in self._copies:
            free = torch.cuda.mem_get_info(self._device)[0] * SHARE if self._device.type == "cuda" else array.nbytes
            source = array if array.flags.writeable else array.copy()  # PyTorch warns of read-only arrays
            copy = torch.from_numpy(source).to(self._device) if array.nbytes <= free else None
            self._copies[id(array)] = array, copy
        return self._copies[id(array)][1]


def cropped(images: torch.Tensor, padding: int, corners: torch.Tensor) -> torch.Tensor:
    """Return what :func:`resnet_xf.data.pixels.cropped` does, for tensors."""
    count, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    down = corners[:, :1] + torch.arange(height, device=images.device)
    across = corners[:, 1:] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, down[:, :, None], across[:, None, :]]
