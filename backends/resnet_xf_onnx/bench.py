"""Sessions of ONNX Runtime on the CPU: how networks run, fast inference, the speed of matrix products."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto
from onnxruntime import GraphOptimizationLevel, InferenceSession, OrtValue, SessionOptions

from resnet_xf.architecture.nodes import Linear
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.backend.fast import Bench, FastTask
from resnet_xf.backend.learner import device_number
from resnet_xf.errors import BackendError
from resnet_xf.support.environment import processors
from resnet_xf_onnx.graph import Graph


class OnnxFast:
    """See :class:`resnet_xf.backend.fast.Fast`. Native tensors are ``OrtValue``."""

    device = "cpu"

    def __init__(self, task: FastTask) -> None:
        device_number(task.device, 0, "onnx")
        if task.precision != "float32":
            raise BackendError(f"onnx computes in float32, not in {task.precision}; choose float32")
        optimized, graph = task.preset != "eager", task.network.graph
        self.steps: tuple[str, ...] = ("optimized graph",) if optimized else ()
        model = graph.model(["images"], graph.outputs, task.network.weights)
        self._session = open_session(model, optimized=optimized)

    def put(self, images: Array) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(plain(images, "float32"))

    def __call__(self, images: Any) -> Any:
        if isinstance(images, OrtValue):
            return self._session.run_with_ort_values(None, {"images": images})[0]
        return self._session.run(None, {"images": plain(images, "float32")})[0]


class OnnxBench(Bench):
    """See :class:`resnet_xf.backend.fast.Bench`. A session's run ends when its work is done: no ``wait`` is needed."""

    fast = staticmethod(OnnxFast)

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        graph, matrix = Graph(Linear(size, size, bias=False), "float32"), np.ones((size, size), np.float32)
        session = open_session(graph.model(["images"], graph.outputs, {"weight": matrix}))
        return [lambda: session.run(None, {"images": matrix})] if precision == "float32" else []

    def threads(self) -> int:
        """Return how many threads a session uses: ``OMP_NUM_THREADS``, as other frameworks do, or one a processor."""
        return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0) or processors()


def open_session(model: ModelProto, *, optimized: bool = False) -> InferenceSession:
    """Return a session that computes a model. It runs the operators as they are, or optimized."""
    options, levels = SessionOptions(), GraphOptimizationLevel
    options.log_severity_level = 4  # what an exception says is not printed too
    options.use_deterministic_compute = True
    options.intra_op_num_threads = OnnxBench().threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(optimized)))  # PyTorch needs the cores
    options.enable_cpu_mem_arena = optimized  # the arena of a session that runs once is never freed
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
