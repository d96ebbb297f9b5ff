"""What a native network shows while it runs: its layers' shapes, their order, their inputs and outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.trace import Observed, ObservedTrace
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend
from resnet_xf.errors import one_line


@dataclass(frozen=True, slots=True)
class Passed:
    """The inputs and the output of one layer of a native network in a forward pass."""

    inputs: tuple[Array, ...]
    output: Array


def trace_network(backend: Backend, network: object, images: Array) -> ObservedTrace:
    """Run a network in inference mode and return every layer's shapes and settings.

    Layers stand in the order in which they run, each block before the layers in it. Of a layer that runs twice, the
    shapes are the last ones. If the run breaks, the layers are those that finished before, and ``error`` is what the
    framework said, in one line.
    """
    shapes: dict[str, tuple[tuple[Shape, ...], Shape]] = {}
    error = None

    def look(name: str, inputs: tuple[Array, ...], output: Array) -> None:
        shapes[name] = tuple(x.shape for x in inputs), output.shape

    try:
        backend.watch(network, images, look)
    except MemoryError:
        raise
    except Exception as broken:  # each framework has errors of its own
        error = one_line(broken)
    weights: defaultdict[str, dict[str, Shape]] = defaultdict(dict)
    arrays: Weights = {}
    with suppress(Exception) if error else nullcontext():  # weights that waited for the run may not be there
        arrays = backend.dump(network)
    for name, array in arrays.items():
        weights[layer_of(name)][name.rpartition(".")[2]] = array.shape
    settings = backend.settings(network)
    layers = {
        name: Observed(shapes[name][1], dict(weights[name]), settings.get(name, {}), shapes[name][0])
        for name in _blocks_first(shapes)
    }
    return ObservedTrace(layers, error)


def _blocks_first(finished: Collection[str]) -> list[str]:
    """Layers in the order in which they finish, reordered so that each block stands before the layers in it."""
    begins: dict[str, int] = {}
    for place, name in enumerate(finished):
        block = name
        begins.setdefault(name, place)
        while block:
            block = block.rpartition(".")[0]
            begins.setdefault(block, place)
    return sorted(finished, key=lambda name: (begins[name], name.count(".") + bool(name)))


def running_order(backend: Backend, network: object, images: Array) -> list[str]:
    """The layers' names in the order in which they finish in inference mode, each as often as it runs."""
    order: list[str] = []
    backend.watch(network, images, lambda name, inputs, output: order.append(name))
    return order


def capture_layers(backend: Backend, network: object, images: Array, names: Collection[str]) -> dict[str, Passed]:
    """Run a network in inference mode and return the inputs and the output of the named layers.

    Of a layer that runs twice, they are those of its last run. A layer that does not run is left out.
    """
    passed: dict[str, Passed] = {}
    backend.watch(network, images, lambda name, inputs, output: passed.update({name: Passed(inputs, output)}), names)
    return passed
