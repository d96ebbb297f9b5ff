"""A backend of resnet_xf that computes with NumPy. It has the required members alone, so it cannot train."""

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array, Weights, plain
from resnet_xf.backend.arrays import ArrayBackend, Network
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.errors import BackendError


class NumpyBackend(ArrayBackend):
    name = "numpy"

    def version(self) -> str:
        return np.__version__

    def forward(self, network: Network, images: Array) -> Any:
        return run(network, images, lambda name, inputs, output: None)

    def watch(self, network: Network, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        def chosen(name: str, inputs: tuple[Array, ...], output: Array) -> None:
            if names is None or name in names:
                look(name, inputs, output)  # no layer works in place, so no input needs a copy

        run(network, images, chosen)


def run(network: Network, images: Array, look: Look) -> Any:
    return nodes.interpret(network.node, partial(compute, network.weights), look, plain(images, network.dtype))


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
