"""The ONNX backend of resnet_xf: networks are ONNX graphs, which ONNX Runtime computes on the CPU. It cannot train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnxruntime

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array, Weights, plain
from resnet_xf.backend.arrays import ArrayBackend, Network
from resnet_xf.backend.contract import Backend, Look
from resnet_xf_onnx.bench import OnnxBench, open_session
from resnet_xf_onnx.export import export, run_export
from resnet_xf_onnx.graph import Graph, inside

__all__ = ["BACKEND"]


class OnnxNetwork(Network):
    """A network with its graph and its last session. ``computed`` has the layer and the tensors of that session."""

    def __init__(self, node: nodes.Node, weights: Weights, dtype: str) -> None:
        super().__init__(node, weights, dtype)
        self.graph = Graph(node, dtype)
        self.computed: tuple[str, list[str]] | None = None

    def run(self, names: Iterable[str], inputs: Mapping[str, Array], layer: str = "") -> dict[str, Array]:
        """Return these tensors by name, the inputs among them. Nothing runs outside the layer."""
        tensors = {name: plain(array, self.dtype) for name, array in inputs.items()}
        weights = {name: array for name, array in self.weights.items() if inside(layer, name)}
        outputs = [name for name in dict.fromkeys(names) if name not in tensors]
        if not outputs:  # an empty layer returns its input, and ONNX Runtime runs no graph without operators
            return tensors
        if self.computed != (layer, outputs):
            model = self.graph.model([*tensors, *weights], outputs, layer=layer)
            self.computed, self.session = (layer, outputs), open_session(model)
        return tensors | dict(zip(outputs, self.session.run(outputs, tensors | weights), strict=True))


class OnnxBackend(ArrayBackend):
    """Networks are :class:`OnnxNetwork`; see :class:`resnet_xf.backend.contract.Backend`."""

    name = "onnx"
    network_class = OnnxNetwork
    bench = OnnxBench()
    export = staticmethod(export)
    run_export = staticmethod(run_export)

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def forward(self, network: OnnxNetwork, images: Array) -> Any:
        tensors = network.run(network.graph.outputs, {"images": images})
        maps = [tensors[name] for name in network.graph.outputs]
        return maps if isinstance(network.node, nodes.Taps) else maps[0]

    def watch(self, network: OnnxNetwork, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        layers = {name: ends for name, ends in network.graph.layers.items() if names is None or name in names}
        shown = (tensor for inputs, output in layers.values() for tensor in (*inputs, output))
        tensors = network.run(shown, {"images": images})
        for name, (inputs, output) in layers.items():
            look(name, tuple(tensors[tensor] for tensor in inputs), tensors[output])

    def apply(self, network: OnnxNetwork, name: str, inputs: Sequence[Array]) -> Any:
        names, output = network.graph.layers[name]
        return network.run([output], dict(zip(names, inputs, strict=True)), name)[output]


BACKEND: Backend = OnnxBackend()
