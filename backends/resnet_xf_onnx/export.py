"""Networks as ONNX files, which run without this package."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from onnx import TensorProto, checker, helper
from onnxruntime import InferenceSession

from resnet_xf.architecture.nodes import output_shapes
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.errors import BackendError, ShapeError, one_line
from resnet_xf_onnx.graph import Graph


def export(network: Any, path: Path, images: Array, precision: str) -> None:
    """See :meth:`resnet_xf.backend.contract.Exports.export`. The input is ``images``, the output ``output``."""
    if precision == "bfloat16":
        raise BackendError("ONNX Runtime computes no network in bfloat16 on a CPU; choose float16 or float32")
    graph = Graph(network.node, precision, "cast")
    graph.operators.insert(0, helper.make_node("Cast", ["images"], ["cast"], to=graph.type))
    graph.operators.append(helper.make_node("Cast", graph.outputs, ["output"], to=TensorProto.FLOAT))
    model = graph.model(["images"], ["output"], network.weights)
    _, channels, height, width = images.shape
    sizes: list[int | str] = [height, width]
    with suppress(ShapeError):  # a last layer without a mean before it takes images of one size
        output_shapes(network.node, (1, channels, 2 * height, 2 * width))
        sizes = ["height", "width"]
    image_info = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, *sizes])
    model.graph.input[0].CopyFrom(image_info)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", None]))
    try:
        checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())
    except (checker.ValidationError, ValueError) as error:  # ValueError: a file of more than 2 GiB
        raise BackendError(f"onnx cannot write the network: {one_line(error)}") from error


def run_export(path: Path, images: Array) -> Any:
    """See :meth:`resnet_xf.backend.contract.Exports.run_export`."""
    session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": plain(images, "float32")})[0]
