"""A backend of resnet_xf that computes with NumPy. It has the required members alone, so it cannot train."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes, check_weights, plain
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.backend.learner import device_number
from resnet_xf.errors import BackendError


@dataclass
class Network:
    """What this backend builds: a node of the plan, its weights by name, and their dtype."""

    node: nodes.Node
    weights: Weights
    dtype: str

    def run(self, images: Array, look: Look) -> Any:
        return nodes.interpret(self.node, partial(compute, self.weights), look, plain(images, self.dtype))


class NumpyBackend:
    name = "numpy"

    def version(self) -> str:
        return np.__version__

    def devices(self) -> list[str]:
        return ["cpu"]

    def build(self, node: nodes.Node, dtype: str = "float32") -> Network:
        weights = {name: np.zeros(shape, dtype) for name, shape in all_weight_shapes(node).items()}
        return Network(node, weights, dtype)  # rung 1 runs it before any weights are loaded

    def load(self, network: Network, weights: Mapping[str, Array]) -> None:
        check_weights(weights, {name: array.shape for name, array in network.weights.items()}, network.dtype)
        network.weights = {name: plain(weights[name], network.dtype).copy() for name in network.weights}

    def dump(self, network: Network) -> Weights:
        return {name: array.copy() for name, array in network.weights.items()}

    def forward(self, network: Network, images: Array) -> Any:
        return network.run(images, lambda name, inputs, output: None)

    def copy(self, network: Network, dtype: str | None = None) -> Network:
        dtype = dtype or network.dtype
        return Network(network.node, {name: array.astype(dtype) for name, array in network.weights.items()}, dtype)

    def move(self, network: Network, device: str) -> Network:
        device_number(device, 0, self.name)  # raises BackendError for anything but the CPU
        return network

    def watch(self, network: Network, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        def chosen(name: str, inputs: tuple[Array, ...], output: Array) -> None:
            if names is None or name in names:
                look(name, inputs, output)  # no layer works in place, so no input needs a copy

        network.run(images, chosen)

    def settings(self, network: Network) -> dict[str, dict[str, float]]:
        norms = {name: node for name, node in nodes.walk(network.node) if isinstance(node, nodes.Norm)}
        return {name: {"eps": norm.eps, "momentum": norm.momentum} for name, norm in norms.items()}


def compute(weights: Weights, name: str, node: nodes.Node, x: Array, *others: Array) -> Any:
    """The output of a layer; of a gate, whose children have run, its product."""
    own = {word: weights[nodes.join(name, word)] for word in node.arrays()}
    scale, shift = own.get("weight", np.ones(1, x.dtype)), own.get("bias", np.zeros(1, x.dtype))
    match node:
        case nodes.Conv():
            x = windows(x, node.kernel, node.stride, [2 * [node.padding]] * 2, 0, node.dilation)
            columns = x.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), -1, node.groups, scale[0].size).swapaxes(1, 2)
            sums = columns @ scale.reshape(node.groups, -1, scale[0].size).swapaxes(1, 2)
            return sums.swapaxes(2, 3).reshape(len(x), -1, *x.shape[2:4]) + shift[:, None, None]
        case nodes.Norm():
            mean, deviation = own["running_mean"], np.sqrt(own["running_var"] + node.eps)
            return (x - mean[:, None, None]) * (scale / deviation)[:, None, None] + shift[:, None, None]
        case nodes.Activation():
            return np.maximum(x, 0) if node.function == "relu" else 1 / (1 + np.exp(-x))
        case nodes.PReLU():
            return np.maximum(x, 0) + scale[:, None, None] * np.minimum(x, 0)
        case nodes.Pad():
            return np.pad(x, [(0, 0), (0, 0), (0, node.after), (0, node.after)])
        case nodes.Pool():
            ends = [-(size + 2 * node.padding - node.kernel) % node.stride if node.ceil else 0 for size in x.shape[2:]]
            pads = [[node.padding, node.padding + end] for end in ends]
            if node.operation == "max":
                return windows(x, node.kernel, node.stride, pads, -np.inf).max((4, 5))
            total, count = (windows(y, node.kernel, node.stride, pads).sum((4, 5)) for y in (x, np.ones_like(x)))
            return total / count  # padding does not enter a mean
        case nodes.GlobalPool():
            return x.mean((2, 3), keepdims=True)
        case nodes.Flatten():
            return x.reshape(len(x), -1)
        case nodes.Linear():
            return x @ scale.T + shift
        case nodes.Add():
            return x + others[0]
        case nodes.Gate():
            return x * others[0]
    raise BackendError(f"numpy has no {node.kind}; give it a case")


def windows(x: Array, kernel: int, stride: int, pads: list[list[int]], fill: float = 0, dilation: int = 1) -> Array:
    """Views of the padded input, ``(N, C, H', W', kernel, kernel)``."""
    padded = np.pad(x, [[0, 0], [0, 0], *pads], constant_values=fill)
    reach = dilation * (kernel - 1) + 1
    return sliding_window_view(padded, (reach, reach), (2, 3))[:, :, ::stride, ::stride, ::dilation, ::dilation]


BACKEND: Backend = NumpyBackend()
