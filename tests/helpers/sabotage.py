"""Real backends that build or train something subtly else than they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from resnet_xf import get_backend
from resnet_xf.architecture.nodes import Children, Node, join
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import CAPABILITIES
from resnet_xf.backend.learner import Learner, Outcome, Task
from resnet_xf.ladder.short_run import TrainingStep

Change = Callable[[str, Node], Node]
Alteration = Callable[..., Any]
"""Of the framework's functions, a layer's own forward pass and its inputs makes another output."""


def rebuilt(node: Node, change: Change, name: str = "") -> Node:
    """The tree with ``change`` applied to every node, what a container holds before the container."""

    def inside(children: Children, **_: object) -> Children:
        return tuple((child_name, rebuilt(child, change, join(name, child_name))) for child_name, child in children)

    return change(name, node.changed(inside))


def only(layer: str, **fields: Any) -> Change:
    """Change the fields of one node."""
    return lambda name, node: replace(node, **fields) if name == layer else node


def alter(backend: str, network: Any, layer: str, change: Alteration) -> None:
    """Let one layer of a native network give what ``change`` makes of it."""
    if backend == "torch":
        import torch

        module = network.get_submodule(layer)
        forward = module.forward
        module.forward = lambda *inputs: change(torch, forward, *inputs)
    else:
        from resnet_xf_mxnet.arrays import named_blocks

        block = dict(named_blocks(network))[layer]
        hybrid = block.hybrid_forward

        def altered(F: Any, *inputs: Any, **params: Any) -> Any:  # noqa: N803
            return change(F, lambda *given: hybrid(F, *given, **params), *inputs)

        block.hybrid_forward = altered


@dataclass(eq=False)
class Saboteur:
    """A backend that passes everything on to a real one, but for what a test has broken.

    Attributes:
        name: of the real one.
        node: what it builds in place of each node.
        altered: what it makes of layers' outputs, forwards and backwards, by name.
        loaded: what it puts into a network in place of the weights that it is given.
        hides: whether a network's weights come out as they were given.
        tells: whether its norms tell their settings.
        task: what it trains in place of a task.
        shown: the step that a learner takes, of all steps that it was given so far.
        after: what it does with a learner after each step.
        taught: what it does with a new learner.
        precisions: those in which it does any of this.
        members: other members of the backend, by name, made of the real backend.
    """

    name: str
    node: Change = lambda name, node: node
    altered: Mapping[str, Alteration] = field(default_factory=dict)
    loaded: Callable[[Weights], Mapping[str, Array]] = dict
    hides: bool = False
    tells: bool = True
    task: Callable[[Task], Task] = lambda task: task
    shown: Callable[[Learner, Sequence[TrainingStep]], TrainingStep] = lambda learner, steps: steps[-1]
    after: Callable[[Learner], object] | None = None
    taught: Callable[[Learner], object] = lambda learner: None
    precisions: Sequence[str] = ("float32", "float64")
    members: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.real = get_backend(self.name)
        self.given: WeakKeyDictionary[Any, Mapping[str, Array]] = WeakKeyDictionary()
        for name, made in self.members.items():
            setattr(self, name, made(self.real))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def build(self, node: Node, dtype: str = "float32") -> Any:
        if dtype not in self.precisions:
            return self.real.build(node, dtype)
        network = self.real.build(rebuilt(node, self.node), dtype)
        for layer, change in self.altered.items():
            alter(self.name, network, layer, change)
        return network

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """Its norms' settings; without ``tells``, none."""
        return self.real.settings(network) if self.tells else {}

    def changed(self, weights: Mapping[str, Array], precision: str) -> Mapping[str, Array]:
        """What goes into a network in place of weights."""
        copies = {name: array.copy() for name, array in weights.items()}
        return self.loaded(copies) if precision in self.precisions else weights

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        precision = str(next(iter(self.real.dump(network).values())).dtype)
        self.real.load(network, self.changed(weights, precision))
        self.given[network] = weights

    def dump(self, network: Any) -> Weights:
        dumped = self.real.dump(network)
        if not self.hides or network not in self.given:
            return dumped
        return {name: self.given[network][name].astype(array.dtype) for name, array in dumped.items()}

    def learner(self, task: Task) -> Any:
        return Pupil(self, task) if task.precision in self.precisions else self.real.learner(task)


class Pupil:
    """A real learner, taught by a saboteur."""

    def __init__(self, teacher: Saboteur, task: Task) -> None:
        self.teacher, self.precision = teacher, task.precision
        self.real = teacher.real.learner(teacher.task(replace(task, network=rebuilt(task.network, teacher.node))))
        for layer, change in teacher.altered.items():
            alter(teacher.name, self.real._network, layer, change)
        teacher.taught(self.real)
        self.steps_given: list[TrainingStep] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        self.real.load(self.teacher.changed(weights, self.precision), velocity)

    def step(self, images: Array, targets: Array, rate: float) -> Outcome:
        self.steps_given.append(TrainingStep(images, targets, rate))
        step = self.teacher.shown(self.real, self.steps_given)
        outcome = self.real.step(step.images, step.targets, step.learning_rate)
        if self.teacher.after is not None:
            loss, outputs = outcome()
            self.teacher.after(self.real)
            return lambda: (loss, outputs)
        return outcome


class Bare:
    """A backend with the required members alone: PyTorch's."""

    def __init__(self, name: str = "bare") -> None:
        self.name = name

    def __getattr__(self, member: str) -> object:
        if any(member in {*vars(group), *group.__annotations__} for group in CAPABILITIES.values()):
            raise AttributeError(member)
        return getattr(get_backend("torch"), member)
