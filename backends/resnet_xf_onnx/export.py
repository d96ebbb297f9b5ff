"""Networks as ONNX files, which run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime import InferenceSession

from resnet_xf.architecture.nodes import Node, output_shapes
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.errors import BackendError, ShapeError, one_line
from resnet_xf_onnx.graph import Graph


def export(network: Any, path: Path, images: Array, precision: str) -> None:
    """See :meth:`resnet_xf.backend.contract.Exports.export`. The input is ``images``, the output ``output``."""
    if precision == "bfloat16":
        raise BackendError("ONNX Runtime computes no network in bfloat16 on a CPU; choose float16 or float32")
    graph = Graph(network.node, precision)
    model = graph.model(graph.outputs)
    for tensor in model.graph.initializer:
        if tensor.name in network.weights:
            tensor.CopyFrom(numpy_helper.from_array(network.weights[tensor.name].astype(precision), tensor.name))
    operators, kind = model.graph.node, TensorProto.FLOAT
    for operator in operators:
        operator.input[:] = ["cast" if name == "images" else name for name in operator.input]
    to = {"float32": kind, "float16": TensorProto.FLOAT16}[precision]
    operators.insert(0, helper.make_node("Cast", ["images"], ["cast"], "cast", to=to))
    operators.append(helper.make_node("Cast", graph.outputs, ["output"], "output", to=kind))
    sizes = ["height", "width"] if _takes_any_size(network.node, images.shape) else images.shape[2:]
    shape = ["batch", images.shape[1], *sizes]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", kind, shape))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", kind, ["batch", None]))
    model.producer_name = "resnet_xf"
    try:
        checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())
    except (checker.ValidationError, ValueError) as error:  # ValueError: a file of more than 2 GiB
        raise BackendError(f"onnx cannot write the network: {one_line(error)}") from error


def _takes_any_size(node: Node, shape: Shape) -> bool:
    """Whether the network takes images of other sizes, too; a last layer without a mean before it does not."""
    try:
        output_shapes(node, (*shape[:2], *(2 * size for size in shape[2:])))
    except ShapeError:
        return False
    return True


def run_export(path: Path, images: Array) -> Any:
    """See :meth:`resnet_xf.backend.contract.Exports.run_export`."""
    session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: plain(images, "float32")})[0]
