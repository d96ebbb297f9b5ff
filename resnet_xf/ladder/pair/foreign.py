"""A network that somebody else built, as a backend that builds nothing but copies of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.trace import Observed, ObservedTrace, Passed
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.learner import Learner, Outcome, Task
from resnet_xf.backend.workers import Role


@dataclass(eq=False)
class Given:
    """See :class:`resnet_xf.backend.contract.Backend`; layers and arrays bear the names of the pair's first network.

    Attributes:
        real: the framework's backend.
        name: of the side.
        network: a copy of the person's network, which itself is never touched.
        layers: for each layer that is compared, in the order in which the first network's run, its own name.
        tensors: for each array, its own name.
        idle: those of layers that never run.
    """

    real: Backend
    name: str
    network: Any
    layers: Mapping[str, str]
    tensors: Mapping[str, str]
    idle: frozenset[str]

    def __post_init__(self) -> None:
        self.unbiased_variance = self.real.unbiased_variance
        self.bench = self.real.bench

    @cached_property
    def named(self) -> dict[str, str]:
        """The arrays' names in the pair's first network, by their own."""
        return {own: name for name, own in self.tensors.items()}

    def version(self) -> str:
        """The framework's."""
        return self.real.version()

    def devices(self) -> list[str]:
        """The framework's."""
        return self.real.devices()

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """A copy of the network, whatever the node."""
        return self.real.copy(self.network, dtype)

    def copy(self, network: Any, dtype: str | None = None) -> Any:
        """A copy of a copy."""
        return self.real.copy(network, dtype)

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Put weights in; arrays that are not compared are left as they are."""
        others = {name: array for name, array in self.real.dump(network).items() if name not in self.named}
        self.real.load(network, others | {self.tensors.get(name, name): array for name, array in weights.items()})

    def dump(self, network: Any) -> Weights:
        """The arrays that are compared."""
        return self._ours(self.real.dump(network))

    def _ours(self, arrays: Mapping[str, Array]) -> Weights:
        return {self.named[own]: array for own, array in arrays.items() if own in self.named}

    def forward(self, network: Any, images: Array) -> Array:
        """The output in inference mode."""
        return self.real.forward(network, images)

    def trace(self, network: Any, images: Array) -> ObservedTrace:
        """The layers that are compared, in the first network's order: its own order of registration tells nothing."""
        seen = self.real.trace(network, images)
        layers = {name: self._seen(own, seen.layers[own]) for name, own in self.layers.items() if own in seen.layers}
        return ObservedTrace(layers, seen.error)

    def _seen(self, own: str, seen: Observed) -> Observed:
        words = {word: self._word(own, word) for word in seen.weight_shapes}
        return dataclasses.replace(seen, weight_shapes={words[w]: shape for w, shape in seen.weight_shapes.items()})

    def _word(self, own: str, word: str) -> str:
        tensor = f"{own}.{word}" if own else word
        return self.named.get(tensor, tensor).rpartition(".")[2]

    def runs(self, network: Any, images: Array) -> list[str]:
        """The layers that are compared, whenever they have run."""
        names = {own: name for name, own in self.layers.items()}
        return [names[own] for own in self.real.runs(network, images) if own in names]

    def move(self, network: Any, device: str) -> Any:
        """The network on a device."""
        return self.real.move(network, device)

    def capture(self, network: Any, images: Array, names: Collection[str]) -> dict[str, Passed]:
        """What passes the named layers."""
        passed = self.real.capture(network, images, [self.layers[name] for name in names])
        return {name: passed[self.layers[name]] for name in names if self.layers[name] in passed}

    def apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """One layer's output."""
        return self.real.apply(network, self.layers[name], inputs)

    def differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """One layer's gradients."""
        own = self.layers[name]
        found = self.real.differentiate(network, own, inputs, cotangent)
        return {self._word(own, key): array for key, array in found.items()}

    def learner(self, task: Task) -> Learner:
        """A learner of a copy."""
        dtype = "float64" if task.precision == "float64" else "float32"
        network: Any = self.real.copy(self.network, dtype)
        decaying = frozenset(self.tensors.get(name, name) for name in task.decaying)
        return _GivenLearner(
            self, self.real.learner(dataclasses.replace(task, network=network, decaying=decaying, preset="eager"))
        )

    def roles(self, workers: int) -> list[Role]:
        """The framework's."""
        return self.real.roles(workers)


class _GivenLearner:
    """See :class:`resnet_xf.backend.learner.Learner`; arrays bear the names of the pair's first network."""

    def __init__(self, given: Given, real: Learner) -> None:
        self.given, self.real = given, real
        self.rank, self.workers, self.device, self.steps = real.rank, real.workers, real.device, real.steps

    def put(self, images: Array) -> Any:
        """Images on the device."""
        return self.real.put(images)

    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        return self.real.step(images, targets, rate)

    def outputs(self, images: Array) -> Array:
        return self.real.outputs(images)

    def dump(self) -> tuple[Weights, Weights]:
        """Of layers that never run only what moves: one framework gives the rest no gradient, the other zeros."""
        weights, velocity = map(self.given._ours, self.real.dump())
        still = {name for name in self.given.idle if name not in velocity or not velocity[name].any()}
        moving = ({n: a for n, a in some.items() if n not in still} for some in (weights, velocity))
        return next(moving), next(moving)

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        own = ({self.given.tensors[name]: array for name, array in some.items()} for some in (weights, velocity))
        self.real.load(*own)

    def loss_scaling(self) -> dict[str, int | float]:
        return self.real.loss_scaling()

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        self.real.load_loss_scaling(state)

    def total(self, numbers: Array) -> Array:
        return self.real.total(numbers)

    def close(self, failure: BaseException | None = None) -> None:
        self.real.close(failure)
