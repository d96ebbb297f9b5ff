"""What PyTorch is measured by: its peers' networks, the machine's ceiling, waiting, and memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from resnet_xf.backend.fast import Fast, FastTask
from resnet_xf_torch.fast import LOW, TorchFast
from resnet_xf_torch.learner import find_device, products_in_tf32


class TorchBench:
    """See :class:`resnet_xf.backend.fast.Bench`."""

    def fast(self, task: FastTask) -> Fast:
        """A network for inference alone."""
        return TorchFast(task)

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """``torch.mm``, and a convolution of 1×1, for which oneDNN has kernels of its own."""
        place = find_device(device)
        if precision == "int8":
            whole = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=place)
            return [self._timed(lambda: torch._int_mm(whole, whole.t()), device)]
        matrix = torch.randn(size, size, dtype=LOW.get(precision, torch.float32), device=place)
        image = matrix.view(1, 16, -1, size).permute(0, 3, 1, 2)  # channels_last
        kernel = matrix.view(size, size, 1, 1)
        in_tf32 = precision == "tf32"
        return [
            self._timed(lambda: torch.mm(matrix, matrix), device, in_tf32),
            self._timed(lambda: nn.functional.conv2d(image, kernel), device, in_tf32),
        ]

    def _timed(self, work: Callable[[], object], device: str, in_tf32: bool = False) -> Callable[[], object]:
        """The work, done once it returns."""

        def run() -> None:
            with torch.inference_mode(), products_in_tf32(in_tf32):
                work()
            self.wait(device)

        return run

    def threads(self) -> int:
        """``torch.get_num_threads``."""
        return torch.get_num_threads()

    def wait(self, device: str) -> None:
        """Synchronise a GPU; on the CPU nothing is left to wait for."""
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    def peak_memory(self, device: str) -> int | None:
        """What the caching allocator had reserved at most."""
        return torch.cuda.max_memory_reserved(device) if device.startswith("cuda") else None
