"""The ONNX backend of resnet_xf: networks are ONNX graphs, which ONNX Runtime computes on the CPU. It cannot train."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes, check_weights, plain
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.backend.learner import device_number
from resnet_xf_onnx.export import export, run_export
from resnet_xf_onnx.graph import Graph
from resnet_xf_onnx.session import OnnxBench, open_session

__all__ = ["BACKEND"]


class Network:
    """A node, its graph, its weights by name, and the session that computed the tensors in ``computed``.

    ``alone`` is the layer that last ran alone, by name.
    """

    def __init__(self, node: nodes.Node, weights: Weights, dtype: str, inputs: int = 1) -> None:
        self.node, self.graph = node, Graph(node, dtype, inputs)
        self.load(weights)

    def load(self, weights: Mapping[str, Array]) -> None:
        self.weights = {name: plain(weights[name], self.graph.dtype).copy() for name in all_weight_shapes(self.node)}
        self.computed: list[str] = []
        self.alone: dict[str, Network] = {}

    def run(self, names: Collection[str], *inputs: Array) -> dict[str, Array]:
        """Return these tensors by name. The inputs are tensors too."""
        fed = dict(zip(self.graph.inputs, (plain(x, self.graph.dtype) for x in inputs), strict=True))
        wanted = [name for name in dict.fromkeys(names) if name not in fed]
        if self.computed != wanted:
            self.computed, self.session = wanted, open_session(self.graph.model(wanted), self.weights)
        return fed | dict(zip(wanted, self.session.run(wanted, fed) if wanted else (), strict=True))


class OnnxBackend:
    """Networks are :class:`Network`; see :class:`resnet_xf.backend.contract.Backend`."""

    name = "onnx"
    bench = OnnxBench()
    export = staticmethod(export)
    run_export = staticmethod(run_export)

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def devices(self) -> list[str]:
        return ["cpu"]

    def build(self, node: nodes.Node, dtype: str = "float32") -> Network:
        return Network(node, {name: np.ones(shape) for name, shape in all_weight_shapes(node).items()}, dtype)

    def load(self, network: Network, weights: Mapping[str, Array]) -> None:
        check_weights(weights, all_weight_shapes(network.node), network.graph.dtype)
        network.load(weights)

    def dump(self, network: Network) -> Weights:
        return {name: array.copy() for name, array in network.weights.items()}

    def forward(self, network: Network, *images: Array) -> Any:
        tensors = network.run(network.graph.outputs, *images)
        maps = [tensors[name] for name in network.graph.outputs]
        return maps if isinstance(network.node, nodes.Taps) else maps[0]

    def copy(self, network: Network, dtype: str | None = None) -> Network:
        return Network(network.node, network.weights, dtype or network.graph.dtype)

    def move(self, network: Network, device: str) -> Network:
        device_number(device, 0, self.name)  # raises BackendError for anything but the CPU
        return network

    def watch(self, network: Network, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        shown = [layer for layer in network.graph.shown if names is None or layer[0] in names]
        tensors = network.run([tensor for _, inputs, output in shown for tensor in (*inputs, output)], images)
        for name, inputs, output in shown:
            look(name, tuple(tensors[tensor] for tensor in inputs), tensors[output])

    def settings(self, network: Network) -> dict[str, dict[str, float]]:
        kinds = nodes.Norm | nodes.Dropout
        return {name: node.settings() for name, node in nodes.walk(network.node) if isinstance(node, kinds)}

    def apply(self, network: Network, name: str, inputs: Sequence[Array]) -> Any:
        if name not in network.alone:
            node = dict(nodes.walk(network.node))[name]
            own = {word: network.weights[nodes.join(name, word)] for word in all_weight_shapes(node)}
            network.alone = {name: Network(node, own, network.graph.dtype, len(inputs))}
        return self.forward(network.alone[name], *inputs)


BACKEND: Backend = OnnxBackend()
