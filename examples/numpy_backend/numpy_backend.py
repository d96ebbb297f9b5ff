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
            ends = (1,) * (node.axes - 2)  # (N, C, H, W) or (N, C)
            mean, variance = (own[word].reshape(-1, *ends) for word in ("running_mean", "running_var"))
            return (x - mean) / np.sqrt(variance + node.eps) * scale.reshape(-1, *ends) + shift.reshape(-1, *ends)
        case nodes.GroupNorm():
            groups = x.reshape(len(x), node.groups, -1)
            centred = groups - groups.mean(2, keepdims=True)
            normal = centred / np.sqrt(groups.var(2, keepdims=True) + node.eps)
            return normal.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]
        case nodes.Activation():
            return FUNCTIONS[node.function](x)
        case nodes.PReLU() | nodes.LeakyReLU():
            slope, dtype = scale[:, None, None] if own else node.slope, np.float32 if node.float32 else x.dtype
            return np.maximum(x, 0) + np.multiply(slope, np.minimum(x, 0), dtype=dtype, casting="same_kind")
        case nodes.Clip():
            return x.clip(node.low, node.high)
        case nodes.Scale():
            minus, times = (np.array(values, x.dtype).reshape(-1, 1, 1) for values in (node.shift, node.scale))
            return (x - minus) * times
        case nodes.Dropout():
            return x  # in inference
        case nodes.Pad():
            return np.pad(x, [(0, 0), (0, 0), (0, node.after), (0, node.after)])
        case nodes.Pool():
            ends = [-(size + 2 * node.padding - node.kernel) % node.stride if node.ceil else 0 for size in x.shape[2:]]
            pads = [[node.padding, node.padding + end] for end in ends]
            if node.operation == "max":
                return windows(x, node.kernel, node.stride, pads, -np.inf).max((4, 5))
            edges = [[0, 0], [0, 0], *2 * [2 * [node.padding]]]
            ones = np.pad(np.ones_like(x), edges, constant_values=node.counts_padding)
            count = windows(ones, node.kernel, node.stride, [[0, end] for end in ends]).sum((4, 5))
            return windows(x, node.kernel, node.stride, pads).sum((4, 5)) / count
        case nodes.RadixSum():
            return x.reshape(len(x), node.radix, -1, *x.shape[2:]).sum(1)
        case nodes.RadixSoftmax():
            groups = x.reshape(len(x), node.cardinality, node.radix, -1).swapaxes(1, 2)
            return softmax(groups).reshape(x.shape)
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


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softmax": softmax,
}


def windows(x: Array, kernel: int, stride: int, pads: list[list[int]], fill: float = 0, dilation: int = 1) -> Array:
    """Views of the padded input, ``(N, C, H', W', kernel, kernel)``."""
    padded = np.pad(x, [[0, 0], [0, 0], *pads], constant_values=fill)
    reach = dilation * (kernel - 1) + 1
    return sliding_window_view(padded, (reach, reach), (2, 3))[:, :, ::stride, ::stride, ::dilation, ::dilation]


BACKEND: Backend = NumpyBackend()
