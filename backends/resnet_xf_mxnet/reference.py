"""The networks of MXNet's model zoo, and exported networks, to compare ours with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.errors import BackendError, WeightsError, one_line
from resnet_xf_mxnet.arrays import kind, ndarray
from resnet_xf_mxnet.numpy_compat import mx


@kind(numpy=False)
def peer(library: str, model: str, num_classes: int, in_channels: int) -> Any:
    """See :meth:`resnet_xf.backend.contract.BuildsPeers.peer`. ``gluon`` is MXNet's model zoo."""
    if library != "gluon":
        raise BackendError(f"mxnet has no networks of {library}; choose gluon")
    try:
        network = mx.gluon.model_zoo.vision.get_model(model, classes=num_classes)
    except ValueError:
        raise BackendError(f"the Gluon model zoo has no {model}") from None
    network.initialize(ctx=mx.cpu())
    for param in network._collect_params_with_prefix().values():
        if not all(param.shape):  # an unknown size, which the first batch determines
            network(mx.nd.zeros((1, in_channels, 224, 224)))
            break
    return network


@kind(numpy=False)
def run_exported(symbol: Path, tensors: Mapping[str, Array], images: Array) -> Array:
    """See :meth:`resnet_xf.backend.contract.RunsExports.run_exported`."""
    try:
        graph = mx.sym.load(str(symbol))
        inputs = [name for name in graph.list_inputs() if name not in tensors]
        labels = [name for name in inputs if name.endswith("label")]  # of a loss, whose output does not depend on them
        shown = [name for name in inputs if name not in labels]
        if len(shown) != 1 or len(graph.list_outputs()) != 1:
            raise WeightsError(f"{symbol}: expected one input and one output beside the tensors, got {shown}")
        given = {**tensors, shown[0]: images}
        if labels:
            arguments, _, _ = graph.infer_shape(**{name: array.shape for name, array in given.items()})
            shapes = dict(zip(graph.list_arguments(), arguments, strict=True))
            given |= {name: np.zeros(shapes[name]) for name in labels}
        arrays = {name: ndarray(array, "float64", mx.cpu()) for name, array in given.items()}
        bound = graph.bind(
            mx.cpu(),
            args={name: arrays[name] for name in graph.list_arguments()},
            aux_states={name: arrays[name] for name in graph.list_auxiliary_states()},
        )
        output: Array = bound.forward(is_train=False)[0].asnumpy()
    except (mx.MXNetError, KeyError, ValueError, AssertionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{symbol}: MXNet cannot run it: {one_line(error)}") from None
    return output


def graph_of(network: Any) -> tuple[str, Weights] | None:
    """See :meth:`resnet_xf.backend.contract.RunsExports.graph_of`. ``SymbolBlock.imports`` returns such a network."""
    if not isinstance(network, mx.gluon.SymbolBlock):
        return None
    _, graph = network._cached_graph
    return graph.tojson(), {name: param.data().asnumpy() for name, param in network._reg_params.items()}
