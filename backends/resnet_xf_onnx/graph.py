"""Translate a node into an ONNX graph.

ONNX Runtime has no float64 kernels for convolutions, means over windows and PReLU, and ONNX keeps ``epsilon`` in
float32. A float64 graph computes these layers by slices, sums and matrix products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Node, join
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.errors import BackendError

OPSET = 22
"""The version of ONNX's operators: that of ONNX 1.17, of 2024."""

TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}

OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax", "dropout": "Identity"}
OPERATORS |= {"flatten": "Flatten", "linear": "Gemm", "add": "Add", "gate": "Mul"}
"""The operators of the kinds of layers that ONNX has as they are, and their attributes."""
ATTRIBUTES = {"softmax": {"axis": 1}, "linear": {"transB": 1}}


class Graph:
    """The operators of a node, in float32 or float64.

    Tensors are given by name. ``shown`` has the name, the inputs and the output of each layer that finishes, in order.
    """

    def __init__(self, node: Node, dtype: str, inputs: int = 1) -> None:
        self.dtype, self.exact = dtype, dtype == "float64"
        self.inputs = ["images", "shortcut"][:inputs]
        self.shown: list[tuple[str, tuple[str, ...], str]] = []
        self._weights = all_weight_shapes(node)
        self._operators: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        output = nodes.interpret(node, self._layer, lambda *shown: self.shown.append(shown), *self.inputs)
        self.outputs: list[str] = output if isinstance(node, nodes.Taps) else [output]

    def model(self, outputs: list[str]) -> ModelProto:
        """Return the model that computes these tensors. Its weights are declared, and are not in it."""
        kind, external = TYPES[self.dtype], TensorProto.EXTERNAL
        inputs, results = (
            [helper.make_tensor_value_info(name, kind, None) for name in names] for names in (self.inputs, outputs)
        )
        declared = self._weights.items()
        weights = [TensorProto(name=n, data_type=kind, dims=shape, data_location=external) for n, shape in declared]
        for weight in weights:
            weight.external_data.add(key="location", value="weights")
        graph = helper.make_graph(self._operators, "resnet_xf", inputs, results, [*weights, *self._constants])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def _run(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator and return the name of its output, or the list of its outputs' names."""
        name = join(self._name, f"{operator}_{len(self._operators)}")
        names = [f"{name}_{n}" if n else name for n in range(outputs)]
        self._operators.append(helper.make_node(operator, inputs, names, name, **attributes))
        return names if outputs > 1 else name

    def _constant(self, values: Any, dtype: str = "") -> str:
        """Add a constant, in the network's dtype unless another is given, and return its name."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(values, dtype or self.dtype), name))
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(values, "int64")

    def _reshape(self, x: str, *shape: int) -> Any:
        """Reshape a tensor. An axis of 0 keeps its size, and one of -1 takes the rest."""
        return self._run("Reshape", x, self._integers(*shape))

    def _layer(self, name: str, node: Node, x: str, *others: str) -> Any:
        """Add a layer and return the name of its output. Raises BackendError if there is no case for its kind."""
        self._name = name
        own = {word: join(name, word) for word in node.arrays()}
        match node:
            case _ if node.kind in OPERATORS:
                attributes = ATTRIBUTES.get(node.kind, {})
                return self._run(OPERATORS[node.kind], x, *others, *own.values(), **attributes)
            case nodes.Conv():
                return self._conv(node, x, own)
            case nodes.Norm():
                return self._norm(node, x, own)
            case nodes.GroupNorm(_, groups, eps):
                grouped = self._reshape(x, 0, groups, -1)
                centred = self._run("Sub", grouped, self._mean(grouped, 2))
                normal = self._normal(centred, self._mean(self._run("Mul", centred, centred), 2), eps)
                weight, bias = (self._reshape(tensor, -1, 1, 1) for tensor in own.values())
                scaled = self._run("Mul", self._run("Reshape", normal, self._run("Shape", x)), weight)
                return self._run("Add", scaled, bias)
            case nodes.LeakyReLU(slope, float32):
                return self._leaky(x, self._constant([slope]), float32)
            case nodes.PReLU(_, float32):
                return self._leaky(x, self._reshape(own["weight"], -1, 1, 1), float32)
            case nodes.Clip(low, high):
                return self._run("Clip", x, self._constant(low), self._constant(high))
            case nodes.Scale():
                shift, scale = (self._constant(np.reshape(values, (-1, 1, 1))) for values in (node.shift, node.scale))
                return self._run("Mul", self._run("Sub", x, shift), scale)
            case nodes.Pad(after):
                return self._padded(x, 0, after)
            case nodes.Pool():
                return self._pool(node, x)
            case nodes.RadixSum(radix):
                parts = self._run("Split", x, outputs=radix, axis=1, num_outputs=radix) if radix > 1 else [x]
                return self._run("Sum", *parts)
            case nodes.RadixSoftmax(radix, cardinality):
                parts = self._run("Transpose", self._reshape(x, 0, cardinality, radix, -1), perm=[0, 2, 1, 3])
                return self._reshape(self._run("Softmax", parts, axis=1), 0, -1, 1, 1)
            case nodes.GlobalPool():
                return self._mean(x, 2, 3)
        raise BackendError(f"onnx has no {node.kind} ({name}); choose torch")

    def _mean(self, x: str, *axes: int) -> Any:
        return self._run("ReduceMean", x, self._integers(*axes))

    def _normal(self, x: str, variance: str, eps: float) -> Any:
        return self._run("Div", x, self._run("Sqrt", self._run("Add", variance, self._constant(eps))))

    def _norm(self, node: nodes.Norm, x: str, own: dict[str, str]) -> Any:
        absent = {"weight": 1, "bias": 0}
        own = {word: own.get(word) or self._constant([absent[word]] * node.channels) for word in absent} | own
        if not self.exact:
            return self._run("BatchNormalization", x, *own.values(), epsilon=node.eps)
        weight, bias, mean, variance = (self._reshape(array, -1, *[1] * (node.axes - 2)) for array in own.values())
        scaled = self._run("Mul", self._run("Sub", x, mean), self._normal(weight, variance, node.eps))
        return self._run("Add", scaled, bias)

    def _conv(self, node: nodes.Conv, x: str, own: dict[str, str]) -> Any:
        if not self.exact:
            window = _window(node, dilations=[node.dilation] * 2)
            return self._run("Conv", x, *own.values(), group=node.groups, **window)
        x = self._padded(x, node.padding, node.padding)
        for axis in (2, 3):  # (N, C, H, W) becomes (N, C, kernel, H', W), then (N, C, kernel, kernel, H', W')
            parts, at = self._windows(x, axis - 4, node), self._integers(axis)
            x = self._run("Concat", *(self._run("Unsqueeze", part, at) for part in parts), axis=axis)
        terms = node.in_channels // node.groups * node.kernel**2
        kernel = self._reshape(own["weight"], node.groups, -1, terms)
        columns = self._reshape(x, 0, node.groups, terms, -1)
        shape = self._run("Concat", self._integers(0, node.out_channels), self._run("Shape", x, start=4), axis=0)
        output = self._run("Reshape", self._run("MatMul", kernel, columns), shape)
        return self._run("Add", output, self._reshape(own["bias"], -1, 1, 1)) if node.bias else output

    def _pool(self, node: nodes.Pool, x: str) -> Any:
        """Add a pooling. A mean in float64 is the sum over windows, divided by the number of pixels in each."""
        if node.operation == "max" or not self.exact:
            counts = {} if node.operation == "max" else {"count_include_pad": node.counts_padding}
            operator = {"max": "MaxPool", "avg": "AveragePool"}[node.operation]
            return self._run(operator, x, ceil_mode=node.ceil, **counts, **_window(node))
        ones = self._run("ConstantOfShape", self._run("Shape", x), value=numpy_helper.from_array(np.ones(1)))
        sums = []
        for fill, tensor in enumerate((x, ones)):
            tensor = self._padded(tensor, node.padding, node.padding, fill * node.counts_padding)
            tensor = self._padded(tensor, 0, (node.stride - 1) * node.ceil)
            rows = self._run("Sum", *self._windows(tensor, 2, node))
            sums.append(self._run("Sum", *self._windows(rows, 3, node)))
        return self._run("Div", *sums)

    def _leaky(self, x: str, slope: str, float32: bool) -> Any:
        """Add ``max(x, 0) + slope * min(x, 0)``; the products are rounded to float32 if ``float32`` says so."""
        if not self.exact:
            return self._run("PRelu", x, slope)
        factors = slope, self._run("Min", x, self._constant(0))
        cast = TensorProto.FLOAT if float32 else TensorProto.DOUBLE
        product = self._run("Mul", *(self._run("Cast", factor, to=cast) for factor in factors))
        return self._run("Add", self._run("Relu", x), self._run("Cast", product, to=TensorProto.DOUBLE))

    def _padded(self, x: str, before: int, after: int, fill: float = 0) -> Any:
        """Pad height and width."""
        pads = self._integers(0, 0, before, before, 0, 0, after, after)
        return self._run("Pad", x, pads, self._constant(fill)) if before or after else x

    def _windows(self, x: str, axis: int, node: nodes.Conv | nodes.Pool) -> list[str]:
        """Return the tensors that have the first, the second … pixel of each window along an axis."""
        dilation = getattr(node, "dilation", 1)
        at, step, outputs = self._integers(axis), self._integers(node.stride), []
        for start in range(0, node.kernel * dilation, dilation):
            end = start - (node.kernel - 1) * dilation or np.iinfo(np.int64).max
            outputs.append(self._run("Slice", x, self._integers(start), self._integers(end), at, step))
        return outputs


def _window(node: nodes.Conv | nodes.Pool, **others: list[int]) -> dict[str, Any]:
    return {"kernel_shape": [node.kernel] * 2, "strides": [node.stride] * 2, "pads": [node.padding] * 4} | others
