"""What a parity run compares: one network, weights for it, images to show to it, and lessons to train it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from resnet_xf.architecture.nodes import Node, Norm, walk
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.trace import Observed, Row, trace
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.lessons import Lessons
from resnet_xf.ladder.report.report import Curves, LayerError


@dataclass(frozen=True)
class Outline:
    """A network's layers as they are expected to be, whoever builds it.

    Attributes:
        name: of the network.
        spec: of ours; None for networks that somebody else built.
        root: what a backend builds; None likewise.
        rows: the trace for one image, the whole first, in the order in which layers run.
        settings: of each norm its ``eps`` and its ``momentum`` (share of the new value).
        source: what all this was read off.
    """

    name: str
    spec: ResNetSpec | None
    root: Node | None
    rows: tuple[Row, ...]
    settings: Mapping[str, Mapping[str, float]]
    source: str = "the plan"

    def inner(self, name: str) -> list[str]:
        """The names directly in a container, in the order in which they run."""
        return self._inner.get(name, [])

    @cached_property
    def _inner(self) -> dict[str, list[str]]:
        """By container. Somebody else's network may have rows of layers without any of what holds them."""
        known = {row.name for row in self.rows} | {""}
        found: dict[str, list[str]] = {}
        for row in self.rows:
            holder = row.name
            while holder and (holder == row.name or holder not in known):
                holder = holder.rpartition(".")[0]
            if row.name:
                found.setdefault(holder, []).append(row.name)
        return found

    @property
    def layers(self) -> list[str]:
        """What computes: every name that holds no others, and the gates, whose product is nobody else's output."""
        holders = {row.name.rpartition(".")[0] for row in self.rows if row.name}
        return [row.name for row in self.rows if row.name and (row.name not in holders or row.kind == "gate")]

    @property
    def kinds(self) -> dict[str, str]:
        """Each layer's kind in a word."""
        return {row.name: row.kind for row in self.rows}


def outline_of(planned: Plan, shape: tuple[int, ...]) -> Outline:
    """The outline of a plan, for images of that shape ``(N, C, H, W)``."""
    norms = {name: node for name, node in walk(planned.root) if isinstance(node, Norm)}
    settings = {name: {"eps": node.eps, "momentum": node.momentum} for name, node in norms.items()}
    rows = tuple(trace(planned, (1, *shape[1:])))
    return Outline(planned.spec.name, planned.spec, planned.root, rows, settings)


@dataclass(frozen=True)
class Subject:
    """The inputs of a run, the same for every side.

    Attributes:
        outline: the network.
        weights: float32 arrays by name.
        images: ``(N, C, H, W)``, float32.
        probe: weights under which every number matters, where ``weights`` are somebody's own and may hide a part of the
            network behind zeros; else None.
        lessons: what it is trained on step by step.
        start: weights to begin the course from, float32.
        course: what it is trained on for its learning curve.
        max_memory: bytes that captured layers may take at a time.
        brought: what the networks held already, where they are somebody's own, by side.
    """

    outline: Outline
    weights: Weights
    images: Array
    probe: Weights | None
    lessons: Lessons
    start: Weights
    course: Lessons
    max_memory: int
    brought: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rung found. It holds if ``where`` is None and ``value`` is within ``bound``.

    Attributes:
        value: the worst that was measured.
        bound: the largest value that passes.
        detail: one line on what was compared, or what is wrong.
        where: the first layer or tensor that diverges.
        layers, curves, accuracy: what rungs 6, 9 and 10 tell besides.
    """

    value: float
    bound: float
    detail: str
    where: str | None = None
    layers: tuple[LayerError, ...] = ()
    curves: Curves | None = None
    accuracy: Equivalence | None = None

    @property
    def holds(self) -> bool:
        """Whether the rung passes."""
        return self.where is None and self.value <= self.bound


class Worst:
    """The measurement nearest to its bound, or furthest beyond it, of many."""

    def __init__(self) -> None:
        self.value, self.bound, self.where = 0.0, float("inf"), ""

    def see(self, value: float, bound: float, where: str) -> None:
        """One more measurement; NaN counts as infinite."""
        value = value if value == value else float("inf")
        if not self.where or value * self.bound > self.value * bound or (value > bound and self.value <= self.bound):
            self.value, self.bound, self.where = value, bound, where

    @property
    def holds(self) -> bool:
        """Whether all are within their bounds."""
        return self.value <= self.bound


def groups(subject: Subject, shown: Mapping[str, Observed], names: Sequence[str], shares: int) -> Iterator[list[str]]:
    """Layers in order, parted so that what passes the layers of a part, ``shares`` times, fits the bound on memory.

    Args:
        subject: tells the bound, and how many images pass.
        shown: what each layer showed for one image.
        names: of the layers.
        shares: how many copies are held at a time, in float64.

    Raises:
        MemoryError: if one layer alone does not fit.
    """
    group: list[str] = []
    held = 0
    for name in names:
        layer = shown[name]
        numbers = sum(prod(shape) for shape in (layer.output_shape, *layer.input_shapes))
        needed = numbers * len(subject.images) * 8 * shares
        if needed > subject.max_memory:
            raise MemoryError(
                f"what passes {name} takes {needed / 2**20:,.0f} MiB, and max_memory allows "
                f"{subject.max_memory / 2**20:,.0f}; allow more, or show fewer or smaller images"
            )
        if held + needed > subject.max_memory:
            yield group
            group, held = [], 0
        group.append(name)
        held += needed
    yield group
