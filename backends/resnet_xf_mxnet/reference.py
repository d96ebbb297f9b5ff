"""Other people's networks in MXNet, to hold ours against: the model zoo's own, and any that was exported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from resnet_xf.formats.gluon_params import read_params
from resnet_xf.weights import Array
from resnet_xf_mxnet import _ndarray
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
    network(_ndarray(images[:1], "float64", mx.cpu()))  # settles the shapes that wait for an input
    params = network._collect_params_with_prefix()
    if {name: param.shape for name, param in params.items()} != {name: array.shape for name, array in weights.items()}:
        return None
    for name, param in params.items():
        param.set_data(_ndarray(weights[name], "float64", mx.cpu()))
    with mx.autograd.pause(train_mode=False):
        output: Array = network(_ndarray(images, "float64", mx.cpu())).asnumpy()
    return output


def run_exported(symbol: Path, params: Path, images: Array) -> Array:
    """What an exported network makes of images in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet's own, on names that it takes for misspelt
        network = mx.gluon.SymbolBlock(mx.sym.load(str(symbol)), mx.sym.var("data"))
    given = {name.partition(":")[2] or name: array for name, array in read_params(params).items()}
    for name, param in network.collect_params().items():
        param.shape = given[name].shape
        param.dtype = "float64"
    network.initialize(ctx=mx.cpu())
    for name, param in network.collect_params().items():
        param.set_data(_ndarray(given[name], "float64", mx.cpu()))
    with mx.autograd.pause(train_mode=False):
        output: Array = network(_ndarray(images, "float64", mx.cpu())).asnumpy()
    return output
