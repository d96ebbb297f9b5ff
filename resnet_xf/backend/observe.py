"""What a native network shows while it runs: its layers' shapes, their order, and the arrays that pass them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from resnet_xf.architecture.trace import ObservedTrace, Passed
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import Backend


def trace_network(backend: Backend, network: Any, images: Array) -> ObservedTrace:
    """Run a network in inference mode and return every layer's shapes; a run that breaks returns those before it."""
    return backend.trace(network, images)


def running_order(backend: Backend, network: Any, images: Array) -> list[str]:
    """The layers' names in the order in which they finish in inference mode, each as often as it runs."""
    return backend.runs(network, images)


def capture_layers(backend: Backend, network: Any, images: Array, names: Collection[str]) -> dict[str, Passed]:
    """Run a network in inference mode and return the inputs and the output of the named layers."""
    return backend.capture(network, images, names)
