"""Rebuilds a network that was imported from an exported graph (``SymbolBlock.imports``) as one that has layers."""

from __future__ import annotations

from typing import Any

from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import Backend, RunsExports, cannot, require
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.gluon_symbol import read_symbol
from resnet_xf.formats.identify import identify
from resnet_xf.formats.verify import bound_of, output_of
from resnet_xf.support.files import temporary_folder


def with_layers(backend: Backend, side: str, network: Any, image: Array) -> Any:
    """Return the network itself if it has layers. If it is an imported graph, build it again in layers from the graph.

    Args:
        backend: the framework's backend.
        side: the network's name in messages.
        network: a native network, with layers or imported.
        image: ``(1, C, H, W)``. The graph and the rebuilt network must have the same output for it in float64.

    Raises:
        SpecError: if a part of the graph (named in the message) cannot be rebuilt, or the outputs differ.
    """
    if cannot(backend, "run exported networks"):
        return network
    exports = require(backend, RunsExports)
    graph = exports.graph_of(network)
    if graph is None:
        return network
    text, tensors = graph
    name = type(network).__name__
    with temporary_folder() as folder:
        path = folder / f"{name}-symbol.json"
        path.write_text(text, encoding="utf-8")
        try:
            file = CheckpointFile(path, "params", tensors, symbol=read_symbol(path))
            identity = identify(file, keep_softmax=True)
            exported = identity.exported
            assert exported is not None  # the file has a graph
            path.write_bytes(exported.graph)
            expected = exports.run_exported(path, exported.tensors, image)
        except WeightsError as error:
            raise SpecError(f"{side}: {str(error).removeprefix(f'{folder}/')}") from None
    apart = relative_error(output_of(backend.name, identity, image), expected)
    if not apart <= bound_of(identity, image, apart):
        raise SpecError(
            f"{side}: {name}, built again from its graph, gives another output (relative error {apart:.1e})"
        )
    built = backend.build(identity.plan.root, "float32")
    backend.load(built, identity.weights)
    return built
