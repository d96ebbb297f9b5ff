"""Sessions of ONNX Runtime on the CPU, and what benchmarks need of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto
from onnxruntime import GraphOptimizationLevel, InferenceSession, OrtValue, SessionOptions

from resnet_xf.architecture.nodes import Linear
from resnet_xf.architecture.weights import Array, Weights, plain
from resnet_xf.backend.fast import FastTask
from resnet_xf.backend.learner import device_number
from resnet_xf.errors import BackendError
from resnet_xf_onnx.graph import Graph


def threads() -> int:
    """Return how many threads a session uses: ``OMP_NUM_THREADS``, as other frameworks do, or one for each core."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1


def open_session(model: ModelProto, weights: Weights, *, optimized: bool = False) -> InferenceSession:
    """Return a session that computes a model with these weights. It runs the operators as they are, or optimized."""
    options = SessionOptions()
    options.log_severity_level = 4  # what an exception says is not printed too
    options.use_deterministic_compute = True
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(optimized)))  # PyTorch needs the cores
    level = GraphOptimizationLevel.ORT_ENABLE_ALL if optimized else GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    options.add_external_initializers(list(weights), [OrtValue.ortvalue_from_numpy(w) for w in weights.values()])
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class OnnxFast:
    """See :class:`resnet_xf.backend.fast.Fast`. Native tensors are ``OrtValue``."""

    def __init__(self, task: FastTask) -> None:
        device_number(task.device, 0, "onnx")
        if task.precision != "float32":
            raise BackendError(f"onnx computes in float32, not in {task.precision}; choose float32")
        self.device, optimized = "cpu", task.preset != "eager"
        self.steps = ("optimized graph",) if optimized else ()
        self._weights, graph = task.network.weights, task.network.graph  # the session shares the weights
        self._session = open_session(graph.model(graph.outputs), self._weights, optimized=optimized)

    def put(self, images: Array) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(plain(images, "float32"))

    def __call__(self, images: Any) -> Any:
        if isinstance(images, OrtValue):
            return self._session.run_with_ort_values(None, {"images": images})[0]
        return self._session.run(None, {"images": plain(images, "float32")})[0]


class OnnxBench:
    """See :class:`resnet_xf.backend.fast.Bench`."""

    fast = staticmethod(OnnxFast)
    threads = staticmethod(threads)

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        graph = Graph(Linear(size, size, bias=False), "float32")
        matrix = np.ones((size, size), np.float32)
        session = open_session(graph.model(graph.outputs), {"weight": matrix})
        return [lambda: session.run(None, {"images": matrix})] if precision == "float32" else []

    def wait(self, device: str) -> None:
        """Return at once: a session's run ends when its work is done."""

    def peak_memory(self, device: str) -> int | None:
        return None
