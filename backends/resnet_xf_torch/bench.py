"""Benchmarks of PyTorch: fast inference, the speed of matrix products, synchronization, memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn

from resnet_xf_torch.fast import LOW, TorchFast
from resnet_xf_torch.learner import find_device, settings_of_convolutions


class TorchBench:
    """See :class:`resnet_xf.backend.fast.Bench`."""

    fast = staticmethod(TorchFast)

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """Return ``torch.mm`` and a 1×1 convolution, which has its own oneDNN kernels."""
        if precision == "int8":
            integers = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=find_device(device))
            return [self._timed(lambda: torch._int_mm(integers, integers.t()), device)]
        matrix = torch.randn(size, size, dtype=LOW.get(precision, torch.float32), device=find_device(device))
        image = matrix.view(1, 16, -1, size).permute(0, 3, 1, 2)  # channels_last
        kernel = matrix.view(size, size, 1, 1)
        in_tf32 = precision == "tf32"
        return [
            self._timed(lambda: torch.mm(matrix, matrix), device, in_tf32),
            self._timed(lambda: nn.functional.conv2d(image, kernel), device, in_tf32),
        ]

    def _timed(self, work: Callable[[], object], device: str, in_tf32: bool = False) -> Callable[[], object]:
        """Return a function that runs ``work`` and waits until the device has finished it."""

        def run() -> None:
            with torch.inference_mode(), settings_of_convolutions(in_tf32):
                work()
            self.wait(device)

        return run

    def threads(self) -> int:
        return torch.get_num_threads()

    def wait(self, device: str) -> None:
        """Synchronize a GPU. On the CPU there is nothing to wait for."""
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    def peak_memory(self, device: str) -> int | None:
        """Return the peak of the caching allocator's reserved memory, in bytes; None on the CPU."""
        return torch.cuda.max_memory_reserved(device) if device.startswith("cuda") else None

    def release(self, device: str) -> tuple[int, int] | None:
        """Empty the caching allocator."""
        place = find_device(device)
        if place.type == "cpu":
            return None
        gc.collect()
        torch.cuda.synchronize(place)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(place), torch.cuda.mem_get_info(place)[0]
