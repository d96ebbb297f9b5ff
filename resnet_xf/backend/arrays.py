"""What backends share whose layers are functions on arrays: a network is a node of the plan and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes, check_weights, plain
from resnet_xf.backend.learner import device_number


@dataclass
class Network:
    """A node of the plan, its weights by name, and their dtype."""

    node: nodes.Node
    weights: Weights
    dtype: str


class ArrayBackend:
    """The members of :class:`resnet_xf.backend.contract.Backend` that are the same for all such frameworks on the CPU.

    A subclass adds ``name``, ``version``, ``forward`` and ``watch``. ``network_class`` may be a subclass of
    :class:`Network`.
    """

    name: str
    network_class: type[Any] = Network

    def devices(self) -> list[str]:
        return ["cpu"]

    def build(self, node: nodes.Node, dtype: str = "float32") -> Any:
        weights = {name: np.zeros(shape, dtype) for name, shape in all_weight_shapes(node).items()}
        return self.network_class(node, weights, dtype)  # rung 1 runs it before any weights are loaded

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        shapes = all_weight_shapes(network.node)
        check_weights(weights, shapes, network.dtype)
        network.weights = {name: plain(weights[name], network.dtype).copy() for name in shapes}

    def dump(self, network: Any) -> Weights:
        return {name: array.copy() for name, array in network.weights.items()}

    def copy(self, network: Any, dtype: str | None = None) -> Any:
        dtype = dtype or network.dtype
        weights = {name: array.astype(dtype) for name, array in network.weights.items()}
        return self.network_class(network.node, weights, dtype)

    def move(self, network: Any, device: str) -> Any:
        device_number(device, 0, self.name)  # raises BackendError for anything but the CPU
        return network

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        kinds = nodes.Norm | nodes.Dropout
        return {name: node.settings() for name, node in nodes.walk(network.node) if isinstance(node, kinds)}
