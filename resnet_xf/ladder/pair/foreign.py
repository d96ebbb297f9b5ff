"""Wraps a network that a user built as a backend. Whatever this backend is asked to build, it returns a copy of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resnet_xf.architecture.nodes import Node, join
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend, GradientsAlone, LayersAlone, Look, Trains, require
from resnet_xf.backend.learner import Learner, Task


@dataclass(eq=False)
class ForeignBackend:
    """One network of a user's pair, as a :class:`resnet_xf.backend.contract.Backend` that builds copies of it.

    To its caller, layers and weights have the names of the pair's first network.

    Attributes:
        real: the framework's backend, which does the work.
        name: this network's name in the report.
        network: a copy of the user's network.
        layers: from each compared layer's name in the first network to its name in this one, in running order.
        tensors: from each compared weight's name in the first network to its name in this one.
        idle: the compared weights of layers that never run, by their names in the first network.
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
        """Return a capability of the framework's backend, such as ``learner``; AttributeError if it lacks that."""
        own = getattr(self.real, member)
        return {"apply": self._apply, "differentiate": self._differentiate, "learner": self._learner}.get(member, own)

    @cached_property
    def names(self) -> dict[str, str]:
        """From each compared weight's name in this network to its name in the first one."""
        return {own: name for name, own in self.tensors.items()}

    def renamed(self, weights: Mapping[str, Array]) -> Weights:
        """Return the compared ones among this network's ``weights``, under the first network's names."""
        return {self.names[own]: array for own, array in weights.items() if own in self.names}

    def build(self, node: Node | None, dtype: str = "float32") -> Any:
        """Return a copy of the user's network in a dtype; ``node`` is not used."""
        return self.copy(self.network, dtype)

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Load the compared weights, named as in the first network; the others stay as they are."""
        others = {name: array for name, array in self.real.dump(network).items() if name not in self.names}
        self.real.load(network, others | {self.tensors.get(name, name): array for name, array in weights.items()})

    def dump(self, network: Any) -> Weights:
        """Return copies of the compared weights, by the first network's names."""
        return self.renamed(self.real.dump(network))

    def watch(self, network: Any, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        """Run the network, and call ``look`` with the name, inputs and output of each compared layer in ``names``.

        If ``names`` is None, these are all compared layers. Names are the first network's.
        """
        chosen = {own: name for name, own in self.layers.items() if names is None or name in names}
        self.real.watch(network, images, lambda own, inputs, output: look(chosen[own], inputs, output), chosen.keys())

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """Return the settings (eps, stride and so on) of the compared layers, by the first network's names."""
        settings = self.real.settings(network)
        return {name: settings[own] for name, own in self.layers.items() if own in settings}

    def _apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """Run one layer alone on these inputs and return its output. ``name``: the layer's in the first network."""
        return require(self.real, LayersAlone).apply(network, self.layers[name], inputs)

    def _differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """Run one layer alone and return the gradients of its inputs and weights.

        ``name``: the layer's in the first network. ``cotangent``: the gradient of the layer's output. The result has
        the keys ``input0`` and so on for inputs, and the last word of the first network's name for weights.
        """
        own = self.layers[name]
        gradients = require(self.real, GradientsAlone).differentiate(network, own, inputs, cotangent)
        return {self.names.get(join(own, key), key).rpartition(".")[2]: array for key, array in gradients.items()}

    def _learner(self, task: Task) -> ForeignLearner:
        """Return a learner that trains a copy of the network by the settings of ``task``."""
        network = self.copy(self.network, "float64" if task.precision == "float64" else "float32")
        decaying = frozenset(self.tensors.get(name, name) for name in task.decaying)
        task = dataclasses.replace(task, network=network, decaying=decaying, preset="eager")
        return ForeignLearner(self, require(self.real, Trains).learner(task))


class ForeignLearner:
    """A :class:`resnet_xf.backend.learner.Learner` in which weights have the names of the pair's first network."""

    def __init__(self, backend: ForeignBackend, real: Learner) -> None:
        self.backend, self.real = backend, real

    def __getattr__(self, member: str) -> Any:
        return getattr(self.real, member)

    def dump(self) -> tuple[Weights, Weights]:
        """Return copies of the weights and of their momentum buffers v, by the first network's names.

        Weights of layers that never run are left out if their v is zero or missing: for these, one framework has no
        gradient and the other has zeros.
        """
        weights, velocity = map(self.backend.renamed, self.real.dump())
        for name in self.backend.idle:
            if name not in velocity or not velocity[name].any():
                weights.pop(name, None)
                velocity.pop(name, None)
        return weights, velocity

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Load weights and momentum buffers, named as in the first network."""
        tensors = self.backend.tensors
        self.real.load(
            {tensors[name]: array for name, array in weights.items()},
            {tensors[name]: array for name, array in velocity.items()},
        )
