"""What Gluon is measured by: its zoo's networks, the machine's ceiling, waiting, and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnet_xf.errors import BackendError
from resnet_xf.fast import Fast, FastTask
from resnet_xf_mxnet.fast import MxnetFast
from resnet_xf_mxnet.learner import find_device
from resnet_xf_mxnet.loan import mx


class MxnetBench:
    """See :class:`resnet_xf.fast.Bench`."""

    def fast(self, task: FastTask) -> Fast:
        """A network for inference alone."""
        return MxnetFast(task)

    def peer(self, library: str, model: str, num_classes: int, in_channels: int) -> Any:
        """The Gluon model zoo's network."""
        try:
            network = mx.gluon.model_zoo.vision.get_model(model, classes=num_classes)
        except ValueError:
            raise BackendError(f"the Gluon model zoo has no {model}") from None
        network.initialize()
        for param in network._collect_params_with_prefix().values():
            if not all(param.shape):  # filled in by the first images otherwise
                network(mx.nd.zeros((1, in_channels, 224, 224)))
                break
        return network

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """``nd.dot``, and ``nd.FullyConnected``, which oneDNN computes on the CPU."""
        if precision not in ("float32", "float16"):
            return []
        matrix = mx.nd.ones((size, size), ctx=find_device(device), dtype=precision)
        return [
            lambda: mx.nd.dot(matrix, matrix).wait_to_read(),
            lambda: mx.nd.FullyConnected(matrix, matrix, num_hidden=size, no_bias=True).wait_to_read(),
        ]

    def wait(self, device: str) -> None:
        """Until the engine has nothing left to do."""
        mx.nd.waitall()

    def peak_memory(self, device: str) -> int | None:
        """What is in use now: MXNet's pool gives nothing back, so that is the most there was."""
        if not device.startswith("cuda"):
            return None
        free, total = mx.context.gpu_memory_info(find_device(device).device_id)
        return int(total - free)
