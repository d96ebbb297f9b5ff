"""Other people's networks in MXNet, to hold ours against: the model zoo's own, and any that was exported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from resnet_xf.architecture.weights import Array
from resnet_xf.errors import WeightsError, one_line
from resnet_xf_mxnet.arrays import ndarray
from resnet_xf_mxnet.loan import mx


def run_reference(
    library: str, model: str, weights: Mapping[str, Array], images: Array, num_classes: int, in_channels: int
) -> Array | None:
    """What the model zoo's own network makes of images in float64, with weights under its structural names.

    None if the library is not MXNet's zoo or has no such network, of these very names and shapes. The zoo takes its
    input channels from the images.
    """
    if library != "gluon":
        return None
    network = mx.gluon.model_zoo.vision.get_model(model, classes=num_classes)
    network.initialize(ctx=mx.cpu())
    network.cast("float64")
    network(ndarray(images[:1], "float64", mx.cpu()))  # settles the shapes that wait for an input
    params = network._collect_params_with_prefix()
    if {name: param.shape for name, param in params.items()} != {name: array.shape for name, array in weights.items()}:
        return None
    for name, param in params.items():
        param.set_data(ndarray(weights[name], "float64", mx.cpu()))
    with mx.autograd.pause(train_mode=False):
        output: Array = network(ndarray(images, "float64", mx.cpu())).asnumpy()
    return output


def run_exported(symbol: Path, tensors: Mapping[str, Array], images: Array) -> Array:
    """What an exported network makes of images in float64, with tensors under the symbol's own names.

    Raises:
        WeightsError: if it cannot be run: it has more than one input or output, or lacks a tensor.
    """
    try:
        graph = mx.sym.load(str(symbol))
        inputs = [name for name in graph.list_inputs() if name not in tensors]
        if len(inputs) != 1 or len(graph.list_outputs()) != 1:
            raise WeightsError(f"{symbol}: expected one input and one output beside the tensors, got {inputs}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MXNet's own, on names that it takes for misspelt
            network = mx.gluon.SymbolBlock(graph, mx.sym.var(inputs[0]))
        params = network.collect_params()
        for name, param in params.items():
            param.shape = tensors[name].shape
            param.dtype = "float64"
        network.initialize(ctx=mx.cpu())
        for name, param in params.items():
            param.set_data(ndarray(tensors[name], "float64", mx.cpu()))
        with mx.autograd.pause(train_mode=False):
            output: Array = network(ndarray(images, "float64", mx.cpu())).asnumpy()
    except (mx.MXNetError, KeyError, ValueError, AssertionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{symbol}: MXNet cannot run it: {one_line(error)}") from None
    return output
