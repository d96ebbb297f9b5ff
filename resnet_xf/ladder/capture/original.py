"""A side for an original network that ran elsewhere, under MXNet: read from what ``capture-script`` recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

from resnet_xf.architecture.measures import array_digest, relative_error
from resnet_xf.architecture.nodes import RadixSoftmax, Scale, walk
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.trace import Observed, ObservedTrace, trace
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes
from resnet_xf.backend.observe import Passed
from resnet_xf.errors import EvidenceError, ShapeError, SpecError, WeightsError
from resnet_xf.formats.graph import Graph, read_graph
from resnet_xf.formats.recognise import named_plan
from resnet_xf.formats.steps import all_steps, steps_of
from resnet_xf.ladder.capture.recorded import Evidence
from resnet_xf.ladder.capture.script import digest, sketch
from resnet_xf.ladder.rungs.gradients import Step
from resnet_xf.ladder.short_run import TrainingStep, curve_run, lockstep_run
from resnet_xf.ladder.subject import Subject, outline_of

MOVED = (Scale, RadixSoftmax)
"""Our layers whose output is not that of one operator of the graph: it takes several, or the output is reshaped."""


@dataclass(frozen=True)
class Translation:
    """The MXNet graph of an evidence file, translated to a plan.

    Attributes:
        plan: the network.
        arrays: from our name of each array to its name in the graph.
        layers: from our name of each layer or container to the operator of the graph that computes its output.
        channels_last: whether the original takes images ``(N, H, W, C)``.
    """

    plan: Plan
    arrays: dict[str, str]
    layers: dict[str, str]
    channels_last: bool


def translate(evidence: Evidence, like: Plan | None = None) -> Translation:
    """Translate the graph of an evidence file to a plan. If plan ``like`` has the same layers, use its names.

    Raises:
        EvidenceError: if a part of the graph cannot be translated; the message names the node.
    """
    tensors, symbol = evidence.stand_ins(), evidence.symbol
    zeros = {name for name, one in evidence.facts.arrays.items() if one.zero and len(one.shape) == 1}
    try:
        graph = read_graph(symbol, tensors)
        planned, arrays = _named(graph, symbol.title, zeros, like)
    except (WeightsError, SpecError, ShapeError) as error:
        raise EvidenceError(f"{evidence.path}: the graph: {error}") from None
    if symbol.nodes[graph.end].name != evidence.facts.head:
        raise EvidenceError(f"{evidence.path}: is of the output {evidence.facts.head!a}, which the graph has not")
    layers: dict[str, str] = {}
    ours, theirs = ([*all_steps(steps)] for steps in (steps_of(planned.root.children), graph.steps))
    if [type(step.node) for step in ours] == [type(step.node) for step in theirs]:
        for one, other in zip(ours, theirs, strict=True):
            if isinstance(one.node, MOVED) or other.name not in evidence.parts["layers"]:
                continue
            name = one.name
            while name:  # a container's output is that of the last layer in it
                layers[name] = other.name
                name = name.rpartition(".")[0]
    return Translation(planned, arrays, layers | {"": evidence.facts.head}, graph.channels_last)


def _named(graph: Graph, title: str, zeros: set[str], like: Plan | None) -> tuple[Plan, dict[str, str]]:
    if like is not None:
        try:
            return named_plan(graph.steps, title, zeros, like.spec)
        except SpecError:  # it is another network; rung 1 says where
            pass
    return named_plan(graph.steps, title, zeros)


class Original:
    """A :class:`resnet_xf.ladder.sides.side.Side` with what an original network computed, read from an evidence file.

    This is one forward pass and one training step.

    Args:
        evidence: the file's contents.
        translation: its graph as a plan.
        weights: the converted weights that are compared with the original, by our names.
    """

    def __init__(self, evidence: Evidence, translation: Translation, weights: Weights) -> None:
        self.evidence, self.translation, self.weights = evidence, translation, weights
        facts = evidence.facts
        self.name, self.device, self.unbiased_variance = "mxnet", "cpu", False
        self.version = f"{facts.mxnet} (recorded under Python {facts.python}, NumPy {facts.numpy})"
        self.tell: Callable[[float], object] = lambda share: None
        self._measurements: dict[str, Callable[[], Any]] = {
            "trace": self._trace,
            "repeated output": lambda: evidence.arrays["repeated_output"],
            "rounding": dict,
        }
        for dtype in ("float32", "float64"):
            self._measurements |= {
                f"shapes/{dtype}": partial(all_weight_shapes, translation.plan),
                f"digests/{dtype}": partial(self._digests, dtype),
                f"output/{dtype}/given": partial(evidence.arrays.get, f"output_{dtype}"),
                f"step/{dtype}": partial(self._step, dtype),
            }

    def cannot(self, capability: str) -> str | None:
        """Return why a capability is lacking, or None. Only ``train step by step`` is: one step was recorded."""
        return f"{self.evidence.path.name} holds one training step" if capability == "train step by step" else None

    def release(self) -> None:
        """Do nothing, since nothing large is held."""

    def take(self, key: str, kind: Any, measure: object, *, large: bool) -> Any:
        """Return what was recorded for ``key``, or raise EvidenceError. The other arguments are not used."""
        if key not in self._measurements:
            raise EvidenceError(f"{self.evidence.path}: holds no {key}")
        return self._measurements[key]()

    def take_each(self, keys: Sequence[str], kind: Any, measure: object) -> Iterator[Any]:
        """Yield for each key ``inside/float64/given/LAYER`` a sketch (a few values) of that layer's output.

        It is in a :class:`Passed` without inputs, or None if the layer was not recorded. ``kind`` and ``measure`` are
        not used. Raises EvidenceError at any other key.
        """
        for key in keys:
            what, _, name = key.rpartition("/")
            if what != "inside/float64/given":
                raise EvidenceError(f"{self.evidence.path}: holds no {key}")
            theirs = self.translation.layers.get(name)
            yield None if theirs is None else Passed((), self.evidence.parts["layers"][theirs])

    def _trace(self) -> ObservedTrace:
        """Return shapes and settings of the original's layers for one image, by our names.

        Output shapes are the recorded ones, if the layer was recorded. All else comes from the plan of its graph.
        """
        planned, facts = self.translation.plan, self.evidence.facts
        nodes = dict(walk(planned.root))
        layers = {}
        for row in trace(planned, (1, *self.images.shape[1:])):
            shape, theirs = row.output_shape, self.translation.layers.get(row.name)
            if theirs is not None:
                shape = _same_axes((1, *facts.layers[theirs][1:]), shape)
            node = nodes[row.name]
            shapes = {word: array.shape for word, array in node.arrays().items()}
            layers[row.name] = Observed(shape, shapes, node.settings())
        return ObservedTrace(layers)

    @property
    def images(self) -> Array:
        """The recorded images as our networks take them, ``(N, C, H, W)``."""
        images = self.evidence.arrays["images"]
        return images.transpose(0, 3, 1, 2) if self.translation.channels_last else images

    def _digests(self, dtype: str) -> dict[str, str]:
        """Return the digests of our weights in a dtype. Rung 2 has shown before that the original has the same ones."""
        return {name: array_digest(array.astype(dtype)) for name, array in self.weights.items()}

    def _step(self, dtype: str) -> Step:
        names, parts = self.translation.arrays, self.evidence.parts
        gradients, statistics = parts[f"gradients_{dtype}"], parts[f"statistics_{dtype}"]
        shapes = all_weight_shapes(self.translation.plan)
        same = [n for n, theirs in names.items() if prod(self.evidence.facts.arrays[theirs].shape) == prod(shapes[n])]
        return Step(
            outputs=self.evidence.arrays[f"step_{dtype}"],
            loss=self.evidence.facts.losses[dtype],
            gradients={name: gradients[names[name]] for name in same if names[name] in gradients},
            statistics={name: statistics[names[name]] for name in same if names[name] in statistics},
            sketched=True,
        )

    def differing(self) -> dict[str, float]:
        """Return the names of our weights that differ from the recorded ones, each with an estimated relative error."""
        apart = {}
        for name, array in self.weights.items():
            if (theirs := self.translation.arrays.get(name)) is None:
                continue  # rung 1 and 2 say that the networks differ
            recorded = self.evidence.facts.arrays[theirs]
            repeated = array.size // max(1, prod(recorded.shape))
            plain = array.reshape(-1, max(1, repeated))  # one value for each group of channels is repeated in ours
            if digest(plain[:, 0]) != recorded.sha256 or (plain != plain[:, :1]).any():
                apart[name] = relative_error(sketch(plain[:, 0]), self.evidence.parts["weights"][theirs])
        return apart

    def subject(self, planned: Plan, max_memory: int) -> Subject:
        """Return the inputs of the comparison: a plan, our weights, and the recorded images and training step.

        Raises:
            ShapeError: if the images do not fit the plan.
        """
        images, targets = self.images, self.evidence.arrays["targets"]
        rows = tuple(trace(planned, (1, *images.shape[1:])))
        run = replace(
            lockstep_run(planned, 0),
            saved=(TrainingStep(images, targets, 0.0),),
            batch_size=len(images),
            size=(images.shape[2], images.shape[3]),
            rows=rows,
        )
        return Subject(
            outline=outline_of(planned, images.shape),
            weights=self.weights,
            images=images,
            probe=None,
            lockstep_run=run,
            curve_start=lambda: self.weights,
            curve_run=curve_run(planned, 0),
            max_memory=max_memory,
            differing=self.differing(),
        )


def _same_axes(recorded: Shape, ours: Shape) -> Shape:
    """Return the recorded shape; but ours if they differ in number of axes alone, as (1, 8) and (1, 8, 1, 1)."""
    return ours if len(recorded) != len(ours) and prod(recorded) == prod(ours) else recorded
