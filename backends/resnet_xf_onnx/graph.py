"""Translate a node into an ONNX graph.

ONNX Runtime has no float64 kernels for convolutions, means over windows and PReLU, and ONNX keeps ``epsilon`` in
float32. A float64 graph computes these layers by slices, sums and matrix products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resnet_xf.architecture import nodes
from resnet_xf.architecture.weights import Array
from resnet_xf.errors import BackendError

OPSET = 22
"""The version of ONNX's operators: that of ONNX 1.17, of 2024."""

OPERATORS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax", "dropout": "Identity",
    "flatten": "Flatten", "linear": "Gemm", "add": "Add", "gate": "Mul",
}  # fmt: skip
"""The kinds of layers that are one operator of ONNX in every dtype, and the attributes of some."""
ATTRIBUTES = {"softmax": {"axis": 1}, "linear": {"transB": 1}}


class Graph:
    """The operators of a node, in float16, float32 or float64. Tensors, operators and layers have names.

    ``layers`` has the inputs and the output of each layer, in the order in which they finish.
    """

    def __init__(self, node: nodes.Node, dtype: str, images: str = "images") -> None:
        self.dtype, self.exact = np.dtype(dtype), dtype == "float64"
        self.type = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.operators: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.layers: dict[str, tuple[tuple[str, ...], str]] = {}
        output = nodes.interpret(node, self._layer, lambda name, *ends: self.layers.update({name: ends}), images)
        self.outputs: list[str] = output if isinstance(node, nodes.Taps) else [output]

    def model(
        self, inputs: Iterable[str], outputs: Iterable[str], weights: Mapping[str, Array] = {}, layer: str = ""
    ) -> ModelProto:
        """Return the model that computes some tensors from others, with the operators inside a layer.

        Weights are inputs, or constants with these values.
        """
        operators = [operator for operator in self.operators if inside(layer, operator.name)]
        constants = [constant for constant in self.constants if inside(layer, constant.name)]
        constants += [numpy_helper.from_array(array.astype(self.dtype), name) for name, array in weights.items()]
        sources, results = (
            [helper.make_tensor_value_info(name, self.type, None) for name in names] for names in (inputs, outputs)
        )
        graph = helper.make_graph(operators, "resnet_xf", sources, results, constants)
        versions = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=versions, ir_version=10, producer_name="resnet_xf")

    def _run(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """Add an operator and return the name of its output.

        An input is the name of a tensor or a constant: a list of integers, or a float or an array in the graph's dtype.
        """
        name = nodes.join(self._name, f"{operator}_{len(self.operators)}")
        tensors = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.operators.append(helper.make_node(operator, tensors, [name], name, **attributes))
        return name

    def _constant(self, values: list[int] | float | Array) -> str:
        array = np.array(values, "int64" if isinstance(values, list) else self.dtype)
        name = nodes.join(self._name, f"constant_{len(self.constants)}")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _layer(self, name: str, node: nodes.Node, x: str, *others: str) -> str:
        """Add a layer and return the name of its output. Raises BackendError if there is no case for its kind."""
        self._name = name
        weights = {word: nodes.join(name, word) for word in node.arrays()}
        match node:
            case _ if node.kind in OPERATORS:
                attributes = ATTRIBUTES.get(node.kind, {})
                return self._run(OPERATORS[node.kind], x, *others, *weights.values(), **attributes)
            case nodes.Conv() if self.exact:
                return self._conv(node, x, **weights)
            case nodes.Conv():
                window = _window(node, group=node.groups, dilations=[node.dilation] * 2)
                return self._run("Conv", x, *weights.values(), **window)
            case nodes.Norm(channels, eps):
                factors = {"weight": np.ones(channels), "bias": np.zeros(channels)} | weights
                if self.exact:
                    factors["running_var"], eps = self._run("Add", factors["running_var"], eps), 0.0
                return self._run("BatchNormalization", x, *factors.values(), epsilon=eps)
            case nodes.GroupNorm(_, groups, eps):
                grouped = self._run("Reshape", x, [0, groups, -1])
                centred = self._run("Sub", grouped, self._run("ReduceMean", grouped, [2]))
                variance = self._run("ReduceMean", self._run("Mul", centred, centred), [2])
                normal = self._run("Div", centred, self._run("Sqrt", self._run("Add", variance, eps)))
                weight, bias = (self._run("Reshape", own, [-1, 1, 1]) for own in weights.values())
                scaled = self._run("Mul", self._run("Reshape", normal, self._run("Shape", x)), weight)
                return self._run("Add", scaled, bias)
            case nodes.LeakyReLU(slope, float32):
                return self._leaky(x, np.array([slope]), float32)
            case nodes.PReLU(_, float32):
                return self._leaky(x, self._run("Reshape", weights["weight"], [-1, 1, 1]), float32)
            case nodes.Clip(low, high):
                return self._run("Clip", x, low, high)
            case nodes.Scale():
                shift, scale = (np.reshape(values, (-1, 1, 1)) for values in (node.shift, node.scale))
                return self._run("Mul", self._run("Sub", x, shift), scale)
            case nodes.Pad(after):
                return self._padded(x, 0, after)
            case nodes.Pool("max"):
                return self._run("MaxPool", x, **_window(node, ceil_mode=node.ceil))
            case nodes.Pool() if self.exact:
                ones = self._run("ConstantOfShape", self._run("Shape", x), value=numpy_helper.from_array(np.ones(1)))
                pixels = self._pixels(node, x), self._pixels(node, ones, float(node.counts_padding))
                return self._run("Div", *(self._run("Sum", *tensors) for tensors in pixels))
            case nodes.Pool():
                window = _window(node, ceil_mode=node.ceil, count_include_pad=node.counts_padding)
                return self._run("AveragePool", x, **window)
            case nodes.RadixSum(radix):
                grouped = self._run("Reshape", self._run("Unsqueeze", x, [1]), [0, radix, -1, 0, 0])
                return self._run("ReduceSum", grouped, [1], keepdims=0)
            case nodes.RadixSoftmax(radix, cardinality):
                grouped = self._run("Reshape", x, [0, cardinality, radix, -1])
                shares = self._run("Softmax", self._run("Transpose", grouped, perm=[0, 2, 1, 3]), axis=1)
                return self._run("Reshape", shares, [0, -1, 1, 1])
            case nodes.GlobalPool():
                return self._run("ReduceMean", x, [2, 3])
        raise BackendError(f"onnx has no {node.kind} ({name}); choose torch")

    def _conv(self, node: nodes.Conv, x: str, weight: str, bias: str = "") -> str:
        """Add a convolution in float64: one matrix product for each group of channels."""
        pixels = self._pixels(node, x)
        windows = self._run("Concat", *(self._run("Unsqueeze", pixel, [2]) for pixel in pixels), axis=2)
        terms = node.in_channels // node.groups * node.kernel**2
        columns = self._run("Reshape", windows, [0, node.groups, terms, -1])
        products = self._run("MatMul", self._run("Reshape", weight, [node.groups, -1, terms]), columns)
        shape = self._run("Concat", [0, node.out_channels], self._run("Shape", pixels[0], start=2), axis=0)
        output = self._run("Reshape", products, shape)
        return self._run("Add", output, self._run("Reshape", bias, [-1, 1, 1])) if bias else output

    def _leaky(self, x: str, slope: str | Array, float32: bool) -> str:
        """Add ``max(x, 0) + slope * min(x, 0)``; the products are rounded to float32 if ``float32`` says so."""
        if not self.exact:
            return self._run("PRelu", x, slope)
        to = TensorProto.FLOAT if float32 else self.type
        factors = (self._run("Cast", factor, to=to) for factor in (slope, self._run("Min", x, 0.0)))
        return self._run("Add", self._run("Relu", x), self._run("Cast", self._run("Mul", *factors), to=self.type))

    def _padded(self, x: str, before: int, after: int, fill: float = 0.0) -> str:
        """Pad height and width."""
        return self._run("Pad", x, [0, 0, before, before, 0, 0, after, after], fill) if before or after else x

    def _pixels(self, node: nodes.Conv | nodes.Pool, x: str, fill: float = 0.0) -> list[str]:
        """Return a tensor ``(N, C, H', W')`` for each pixel of the window: its value in every window of the image."""
        dilation, beyond = (node.dilation, 0) if isinstance(node, nodes.Conv) else (1, (node.stride - 1) * node.ceil)
        padded = self._padded(self._padded(x, node.padding, node.padding, fill), 0, beyond)
        starts = range(0, node.kernel * dilation, dilation)
        ends = {start: start - starts[-1] or np.iinfo(np.int64).max for start in starts}  # counted from the last pixel
        return [
            self._run("Slice", padded, [row, column], [ends[row], ends[column]], [2, 3], [node.stride] * 2)
            for row, column in product(starts, repeat=2)
        ]


def inside(layer: str, name: str) -> bool:
    """Whether a tensor or an operator belongs to a layer, by its name. All belong to the network, ``""``."""
    return not layer or name.startswith(f"{layer}.")


def _window(node: nodes.Conv | nodes.Pool, **others: Any) -> dict[str, Any]:
    return {"kernel_shape": [node.kernel] * 2, "strides": [node.stride] * 2, "pads": [node.padding] * 4} | others
