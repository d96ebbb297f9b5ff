"""What a parity run compares: one plan, one set of weights, some images, and each backend's networks of them."""

from __future__ import annotations

import gc
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnet_xf.backend import Backend
from resnet_xf.measures import relative_error
from resnet_xf.plan import Plan
from resnet_xf.weights import Array, Weights

LARGE = 2**28
"""Bytes of weights from which on memory counts for more than the tenth of a second that it takes to free it."""


@dataclass(frozen=True)
class Subject:
    """The inputs of a run, and what has been made of them so far.

    Attributes:
        plan: the network.
        weights: float32 arrays by name.
        images: ``(N, C, H, W)``, float32.
        backends: at least two, of distinct names.
        probe: the same with weights under which every number matters, where ``weights`` are somebody's own and may
            hide a part of the network behind zeros.
    """

    plan: Plan
    weights: Weights
    images: Array
    backends: tuple[Backend, ...]
    probe: Subject | None = None
    _network: dict[tuple[str, str], Any] = field(default_factory=dict)
    _outputs: dict[tuple[str, str], Array] = field(default_factory=dict)

    def let_go(self) -> None:
        """Forget the network at hand, before another is built: large ones would fill the memory."""
        self._network.clear()
        if sum(array.nbytes for array in self.weights.values()) > LARGE:
            gc.collect()  # Gluon's blocks refer to themselves

    def fresh(self, backend: Backend, dtype: str) -> Any:
        """A new network with the weights in it."""
        network = backend.build(self.plan.root, dtype)
        backend.load(network, self.weights)
        return network

    def network(self, backend: Backend, dtype: str) -> Any:
        """The network with the weights in it: the one at hand, or else built anew."""
        key = (backend.name, dtype)
        if key not in self._network:
            self.let_go()
            self._network[key] = self.fresh(backend, dtype)
        return self._network[key]

    def output(self, backend: Backend, dtype: str) -> Array:
        """What that network makes of the images, computed on first use."""
        key = (backend.name, dtype)
        if key not in self._outputs:
            self._outputs[key] = backend.forward(self.network(backend, dtype), self.images)
        return self._outputs[key]

    def gain(self, backend: Backend) -> float:
        """How much larger, relatively, a small random change of the images is in the float64 output."""
        noise = np.random.default_rng(0).standard_normal(self.images.shape) * 1e-6
        nudged = self.images * (1 + noise)
        output = backend.forward(self.network(backend, "float64"), nudged)
        changed = relative_error(output, self.output(backend, "float64"))
        return changed / relative_error(nudged, self.images)

    def capture(self, backend: Backend, dtype: str, names: Collection[str]) -> dict[str, Array]:
        """What the named layers of that network make of the images."""
        return backend.capture(self.network(backend, dtype), self.images, names)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rung found. It holds if ``where`` is None and ``value`` is within ``bound``.

    Attributes:
        value: the worst that was measured.
        bound: the largest value that passes.
        detail: one line on what was compared, or what is wrong.
        where: the first layer or tensor that diverges.
    """

    value: float
    bound: float
    detail: str
    where: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the rung passes."""
        return self.where is None and self.value <= self.bound
