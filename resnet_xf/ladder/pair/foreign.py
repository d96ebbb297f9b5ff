"""A network that a user built, as a backend that builds nothing but copies of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend, GradientsAlone, LayersAlone, Look, Trains, require
from resnet_xf.backend.learner import Learner, Task


@dataclass(eq=False)
class ForeignBackend:
    """See :class:`resnet_xf.backend.contract.Backend`. Layers and weights have the names of the pair's first network.

    Attributes:
        real: the framework's backend.
        name: of this network in the report.
        network: a copy of the user's network.
        layers: the name in this network of each compared layer, in the order in which the first network runs them.
        tensors: the name in this network of each compared weight.
        idle: the compared weights of layers that never run.
    """

    real: Backend
    name: str
    network: Any
    layers: Mapping[str, str]
    tensors: Mapping[str, str]
    idle: frozenset[str]

    def __post_init__(self) -> None:
        self.version, self.devices = self.real.version, self.real.devices
        self.forward, self.copy, self.move = self.real.forward, self.real.copy, self.real.move

    def __getattr__(self, member: str) -> Any:
        """A capability of the framework; AttributeError if it lacks that."""
        own = getattr(self.real, member)
        return {"apply": self._apply, "differentiate": self._differentiate, "learner": self._learner}.get(member, own)

    @cached_property
    def names(self) -> dict[str, str]:
        """The first network's names of the compared weights, by their names in this network."""
        return {own: name for name, own in self.tensors.items()}

    def renamed(self, weights: Mapping[str, Array]) -> Weights:
        """The compared ones of this network's weights, by the first network's names."""
        return {self.names[own]: array for own, array in weights.items() if own in self.names}

    def build(self, node: Node | None, dtype: str = "float32") -> Any:
        """A copy of the network, whatever the node."""
        return self.copy(self.network, dtype)

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Load the compared weights; the others stay as they are."""
        others = {name: array for name, array in self.real.dump(network).items() if name not in self.names}
        self.real.load(network, others | {self.tensors.get(name, name): array for name, array in weights.items()})

    def dump(self, network: Any) -> Weights:
        """Copies of the compared weights, by the first network's names."""
        return self.renamed(self.real.dump(network))

    def watch(self, network: Any, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        """Show the compared layers."""
        chosen = {own: name for name, own in self.layers.items() if names is None or name in names}
        self.real.watch(network, images, lambda own, inputs, output: look(chosen[own], inputs, output), chosen.keys())

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """The settings of the compared layers."""
        settings = self.real.settings(network)
        return {name: settings[own] for name, own in self.layers.items() if own in settings}

    def _apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """One layer's output."""
        return require(self.real, LayersAlone).apply(network, self.layers[name], inputs)

    def _differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """One layer's gradients."""
        own = self.layers[name]
        gradients = require(self.real, GradientsAlone).differentiate(network, own, inputs, cotangent)
        tensors = {key: f"{own}.{key}" if own else key for key in gradients}
        return {self.names.get(tensors[key], key).rpartition(".")[2]: array for key, array in gradients.items()}

    def _learner(self, task: Task) -> ForeignLearner:
        """What trains a copy of the network."""
        network = self.copy(self.network, "float64" if task.precision == "float64" else "float32")
        decaying = frozenset(self.tensors.get(name, name) for name in task.decaying)
        task = dataclasses.replace(task, network=network, decaying=decaying, preset="eager")
        return ForeignLearner(self, require(self.real, Trains).learner(task))


class ForeignLearner:
    """See :class:`resnet_xf.backend.learner.Learner`. Weights have the names of the pair's first network."""

    def __init__(self, backend: ForeignBackend, real: Learner) -> None:
        self.backend, self.real = backend, real

    def __getattr__(self, member: str) -> Any:
        return getattr(self.real, member)

    def dump(self) -> tuple[Weights, Weights]:
        """Copies of weights and v, without those of layers that never run, unless v moves them.

        For these, one framework has no gradient and the other has zeros.
        """
        weights, velocity = map(self.backend.renamed, self.real.dump())
        for name in self.backend.idle:
            if name not in velocity or not velocity[name].any():
                weights.pop(name, None)
                velocity.pop(name, None)
        return weights, velocity

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Put weights and v in."""
        tensors = self.backend.tensors
        self.real.load(
            {tensors[name]: array for name, array in weights.items()},
            {tensors[name]: array for name, array in velocity.items()},
        )
