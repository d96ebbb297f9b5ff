"""What a parity run compares: a network, its weights, images to show to it, and short training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from resnet_xf.architecture.measures import array_digest
from resnet_xf.architecture.nodes import Node, walk
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.rewrite import in_full_precision
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.trace import Observed, Row, trace
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import DTYPES
from resnet_xf.ladder.short_run import ShortRun


@dataclass(frozen=True)
class Outline:
    """The layers that every network under comparison must have.

    Attributes:
        name: the network's name.
        spec: the spec of a network that this package builds; None for a user's own network.
        root: the node that a backend builds, in full precision; None for a user's own network.
        rows: one row per layer, for one image: first the whole network, then the layers in the order in which they run.
        settings: for each layer name, its eps, stride and so on, as :meth:`resnet_xf.backend.contract.Backend.settings`
            returns them. For a user's own network, norms without running statistics are left out.
        source: where these layers come from, for messages: ``the plan``, or the name of the user's first network.
    """

    name: str
    spec: Spec | None
    root: Node | None
    rows: tuple[Row, ...]
    settings: Mapping[str, Mapping[str, float]]
    source: str = "the plan"

    @property
    def norms(self) -> dict[str, Mapping[str, float]]:
        """For each batch norm, by name: its settings, with ``eps`` and ``momentum`` (the share of the new value)."""
        return {name: settings for name, settings in self.settings.items() if "momentum" in settings}

    @property
    def dropouts(self) -> list[str]:
        """The names of the dropout layers whose rate is above 0."""
        return [name for name, settings in self.settings.items() if settings.get("rate")]

    def inner(self, name: str) -> list[str]:
        """Return the names of layers directly in container ``name`` (``""``: the network), in running order."""
        return self._inner.get(name, [])

    @cached_property
    def _inner(self) -> dict[str, list[str]]:
        """For each container: the names directly inside it. Layers of a container without a row belong one level up."""
        names = {row.name for row in self.rows} | {""}
        inner: dict[str, list[str]] = {}
        for row in self.rows:
            container = row.name
            while container and (container == row.name or container not in names):
                container = container.rpartition(".")[0]
            if row.name:
                inner.setdefault(container, []).append(row.name)
        return inner

    @property
    def layers(self) -> list[str]:
        """The names of the layers that compute: those with no layers inside, and gates, which multiply their input."""
        containers = {row.name.rpartition(".")[0] for row in self.rows if row.name}
        return [row.name for row in self.rows if row.name and (row.name not in containers or row.kind == "gate")]

    @property
    def kinds(self) -> dict[str, str]:
        """For each layer name, its kind, such as ``conv`` or ``norm``."""
        return {row.name: row.kind for row in self.rows}


def outline_of(planned: Plan, shape: tuple[int, ...]) -> Outline:
    """Return the outline (names, shapes and settings of the layers) of a plan, for images of shape ``(N, C, H, W)``."""
    settings = {name: settings for name, node in walk(planned.root) if (settings := node.settings())}
    rows = tuple(trace(planned, (1, *shape[1:])))
    return Outline(planned.spec.name, planned.spec, in_full_precision(planned.root), rows, settings)


@dataclass(frozen=True)
class Subject:
    """The inputs of a parity run. Every side (network under comparison) gets the same ones.

    Attributes:
        outline: the layers of the network.
        weights: float32 arrays by name.
        images: ``(N, C, H, W)``, float32.
        probe: float32 weights, drawn so that every value has an effect, to be compared too: a user's weights may hide a
            part of the network behind zeros. None if ``weights`` are drawn like this, or cannot be replaced.
        lockstep_run: the training steps of rungs 7 and 8.
        curve_start: returns the float32 weights from which ``curve_run`` begins.
        curve_run: the training steps of rung 9.
        max_memory: bytes that tensors captured inside the networks may take at a time.
        brought: for two networks that a user built: by network name, the weights that it had. Else empty.
        keeps_more: whether training changes more in a user's network than its parameters and running statistics.
        differing: for an original network that was recorded elsewhere, as digests: the names of the ``weights`` that
            differ from it, each with about how much, relative to the largest value. Else empty.
    """

    outline: Outline
    weights: Weights
    images: Array
    probe: Weights | None
    lockstep_run: ShortRun
    curve_start: Callable[[], Weights]
    curve_run: ShortRun
    max_memory: int
    brought: Mapping[str, Weights] = field(default_factory=dict)
    keeps_more: bool = False
    differing: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, dict[str, str]]:
        """The digests of the weights, by dtype and name."""
        return {
            dtype: {name: array_digest(array.astype(dtype, copy=False)) for name, array in self.weights.items()}
            for dtype in DTYPES
        }


def batches_of_layers(
    subject: Subject, observed: Mapping[str, Observed], names: Sequence[str], copies: int
) -> Iterator[list[str]]:
    """Split layers into consecutive batches whose tensors, held ``copies`` times, fit in ``max_memory``.

    Args:
        subject: gives ``max_memory`` and the number of images.
        observed: by layer name, the shapes of its inputs and output for one image.
        names: the layers, in order.
        copies: how many copies of each layer's inputs and output are held at a time, in float64.

    Yields:
        The names of each batch.

    Raises:
        MemoryError: if a single layer does not fit.
    """
    batch: list[str] = []
    total = 0
    for name in names:
        layer = observed[name]
        values = sum(prod(shape) for shape in (layer.output_shape, *layer.input_shapes))
        needed = values * len(subject.images) * 8 * copies
        if needed > subject.max_memory:
            raise MemoryError(
                f"inputs and output of {name} take {needed / 2**20:,.0f} MiB, and max_memory allows "
                f"{subject.max_memory / 2**20:,.0f}; allow more, or show fewer or smaller images"
            )
        if total + needed > subject.max_memory:
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += needed
    yield batch
