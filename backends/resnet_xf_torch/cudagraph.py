"""Record a function that computes on a GPU, and replay it: its hundreds of kernels are started by a single call."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from resnet_xf.errors import one_line

WARM_UP = 3
"""Calls with inputs of some shapes before one is recorded: in these, kernels are compiled and chosen."""

Tensors: TypeAlias = tuple[torch.Tensor, ...]


class Recorded:
    """A function of tensors on a GPU, recorded once for each shape of its inputs, and then replayed.

    The function may read and write other tensors too, as the weights, if these stay where they are. Each replay writes
    into the same outputs: read them, in the same stream, before the next call.

    If PyTorch cannot record the function, as one that waits for the GPU, there is a warning, ``failed`` is called, and
    then the function as it is.
    """

    def __init__(self, function: Callable[..., Tensors], failed: Callable[[], object] = lambda: None) -> None:
        self._function, self._failed = function, failed
        self._calls: Counter[Any] = Counter()
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._works = True

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        shapes = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs)
        self._calls[shapes] += 1
        if self._works and shapes not in self._graphs and self._calls[shapes] > WARM_UP:
            try:
                self._graphs[shapes] = self._record(inputs)
            except RuntimeError as error:
                self._works = False
                self._failed()
                text = f"steps are no CUDA graph, which is slower: PyTorch cannot record one: {one_line(error)}"
                warnings.warn(text, stacklevel=2)
        if shapes not in self._graphs:
            return self._in_stream(inputs)
        graph, places, outputs = self._graphs[shapes]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return outputs

    def _in_stream(self, inputs: Tensors) -> Tensors:
        """Call the function in the stream that records it, because autograd remembers the stream of each gradient."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        for tensor in (*inputs, *outputs):
            tensor.record_stream(torch.cuda.current_stream())
            tensor.record_stream(self._stream)
        return outputs

    def _record(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        """Record the function, without running it. Graphs share their memory, because they run one after another."""
        graph, places = torch.cuda.CUDAGraph(), tuple(tensor.clone() for tensor in inputs)
        pool = next((other.pool() for other, _, _ in self._graphs.values()), None)
        before = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                outputs = self._function(*places)
        finally:
            torch.cuda.set_stream(before)  # if a recording fails, PyTorch may stay in its stream
        return graph, places, outputs
