"""What the neutral half asks of a backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.trace import ObservedTrace, Passed
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.fast import Bench
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.backend.workers import Role

DTYPES = ("float32", "float64")

CAPABILITIES = {
    "run layers alone": ("apply", "differentiate"),
    "train": ("learner", "roles", "unbiased_variance"),
    "optimize": ("bench",),
}
"""What a backend may offer besides, and the members that it then has."""


def cannot(backend: Backend, capability: str) -> str | None:
    """Why a backend lacks a capability, as ``numpy cannot train``; None if it has it."""
    if all(hasattr(backend, member) for member in CAPABILITIES[capability]):
        return None
    return f"{backend.name} cannot {capability}"


class Backend(Protocol):
    """One framework. Networks are its native objects; all else that crosses is NumPy and plain data."""

    name: str
    unbiased_variance: bool
    """Whether its norms keep the unbiased variance, of m − 1, or the biased one, of m elements for each channel."""

    @property
    def bench(self) -> Bench:
        """How it is made fast and measured."""
        ...

    def version(self) -> str:
        """The framework's version."""
        ...

    def devices(self) -> list[str]:
        """The devices that it can use, as ``cpu``, ``cuda:0``; then ``not cuda:1: …``, why it cannot use others."""
        ...

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """The native network of a node, on the CPU, initialised as the framework does by itself."""
        ...

    def copy(self, network: Any, dtype: str | None = None) -> Any:
        """An independent copy of any native network, also of one that was not built here; on the CPU.

        In a dtype, or in its own; not hybridized; all that can learn does. The network itself is not touched. Raises
        WeightsError if it has weights that are not there yet, and SpecError if it cannot be copied.
        """
        ...

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Put weights into a network by name; raises WeightsError unless they fit exactly."""
        ...

    def dump(self, network: Any) -> Weights:
        """A network's weights by name, in its own dtype."""
        ...

    def forward(self, network: Any, images: Array) -> Array:
        """The output for images ``(N, C, H, W)`` in inference mode, computed in the network's dtype."""
        ...

    def trace(self, network: Any, images: Array) -> ObservedTrace:
        """Run the network in inference mode and tell of every layer; a run that breaks tells of those before."""
        ...

    def runs(self, network: Any, images: Array) -> list[str]:
        """The layers' names in the order in which they end in inference mode, each as often as it runs."""
        ...

    def move(self, network: Any, device: str) -> Any:
        """The network on a device: ``cpu``, ``cuda`` or ``cuda:1``; raises BackendError if there is none."""
        ...

    def capture(self, network: Any, images: Array, names: Collection[str]) -> dict[str, Passed]:
        """Run the network in inference mode and bring back what went into and came out of the named layers."""
        ...

    def apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """The output of one named layer of the network for inputs of its own, in inference mode."""
        ...

    def differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """One named layer in training mode: the gradients of Σ output · cotangent.

        By ``input0``, ``input1`` … for its inputs, and by the names of its weights. Its statistics may move.
        """
        ...

    def learner(self, task: Task) -> Learner:
        """What trains a network; the weights are loaded afterwards. Raises BackendError if it cannot do the task."""
        ...

    def roles(self, workers: int) -> list[Role]:
        """The processes that train together on this machine: that many workers, and what serves them."""
        ...
