"""Benchmarks of MXNet: fast inference, the speed of matrix products, synchronization, memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress

from resnet_xf_mxnet.fast import MxnetFast
from resnet_xf_mxnet.learner import find_device
from resnet_xf_mxnet.numpy_compat import mx


class MxnetBench:
    """See :class:`resnet_xf.backend.fast.Bench`."""

    fast = staticmethod(MxnetFast)

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """Return ``nd.dot`` and ``nd.FullyConnected``, which uses oneDNN on the CPU."""
        if precision not in ("float32", "float16"):
            return []
        matrix = mx.nd.random.uniform(-1, 1, (size, size), ctx=find_device(device)).astype(precision)
        return [
            lambda: mx.nd.dot(matrix, matrix).wait_to_read(),
            lambda: mx.nd.FullyConnected(matrix, matrix, num_hidden=size, no_bias=True).wait_to_read(),
        ]

    def threads(self) -> int:
        """Return the number of OpenMP threads. MXNet uses all of them."""
        return int(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())

    def wait(self, device: str) -> None:
        mx.nd.waitall()

    def peak_memory(self, device: str) -> int | None:
        """Return the driver's figure for this process. It is the peak, because MXNet's pool never releases memory."""
        if not device.startswith("cuda"):
            return None
        command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
            for line in output.splitlines():
                process, mebibytes = map(int, line.split(","))
                if process == os.getpid():
                    return mebibytes * 2**20
        return None

    def release(self, device: str) -> tuple[int, int] | None:
        """Return the memory in use; MXNet's pool is left as it is, because its use tells the peak."""
        context = find_device(device)
        if context.device_type == "cpu":
            return None
        return self.peak_memory(device) or 0, int(mx.context.gpu_memory_info(context.device_id)[0])
