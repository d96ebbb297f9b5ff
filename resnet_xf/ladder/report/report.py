"""What a parity run found, as typed data."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, get_args

import msgspec
import numpy as np

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import ResNetXFError
from resnet_xf.ladder.accuracy.equivalence import Equivalence

Level = Literal["quick", "standard", "full"]
"""How far up the ladder: inference; training step by step too; learning curves and accuracies as well."""

LEVELS: tuple[Level, ...] = get_args(Level)

TRAINING = (7, 8)
"""The numbers of the rungs that prove two networks the same in training."""


def check_level(name: str) -> Level:
    """Return the level of that name; raise ResNetXFError if there is none."""
    for level in LEVELS:
        if name == level:
            return level
    raise ResNetXFError(f"no level is called {name!r}; choose one of {', '.join(LEVELS)}")


class RungResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder.

    Attributes:
        number: its place, from 1.
        name: what it compares, in a word or two.
        status: ``pass``, ``fail``, or ``skip`` if a rung below it failed or a backend cannot do what it takes.
        metric: what ``value`` and ``bound`` measure.
        value: the worst that was found; None in a rung that was skipped, infinite (``null`` in JSON) where shapes
            differ, something is not finite or a network does not run.
        bound: the largest value that passes.
        where: the first layer or tensor that diverges, if any does.
        detail: one line on what was found, or on what a backend cannot do.
        seconds: how long it took.
    """

    number: int
    name: str
    status: Literal["pass", "fail", "skip"]
    metric: str
    value: float | None = None
    bound: float | None = None
    where: str | None = None
    detail: str = ""
    seconds: float = 0.0


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """One layer on rung 6; all errors are relative.

    Attributes:
        name, kind: of the layer.
        inherited: of its float64 output in the whole network, against the first side's.
        inherited_bound: for that.
        own: of its float64 output for the other side's input; None where neither side can be run.
        own_bound: for that.
        float32: each side's own float32 output against its own float64 one, for the same input.
        float32_bound: for that.
    """

    name: str
    kind: str
    inherited: float
    inherited_bound: float
    own: float | None = None
    own_bound: float | None = None
    float32: dict[str, float] = {}
    float32_bound: float = 0.0


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of rung 9, step by step, in float32.

    Attributes:
        losses: of each side.
        nudged: of each side's runs with every weight moved to a float32 number next to it.
    """

    losses: dict[str, tuple[float, ...]]
    nudged: dict[str, tuple[tuple[float, ...], ...]]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole parity run.

    Attributes:
        network: its name.
        spec: it as data; None if it is somebody's own pair of networks.
        level: ``quick``, ``standard`` or ``full``.
        command: that made this report; empty if it was made in Python.
        backends: the versions that were compared, by backend.
        images: what was shown to the networks.
        input_shape: ``(N, C, H, W)``.
        weights: where the weights came from.
        environment: the machine's software.
        devices: on which each side ran.
        rungs: the ladder, cheapest first.
        layers: of rung 6, in the order in which they run.
        curves: of rung 9.
        accuracy: of rung 10.
    """

    version: Literal[1] = 1
    network: str
    spec: ResNetSpec | None = None
    level: Level = "standard"
    command: str = ""
    backends: dict[str, str]
    images: str
    input_shape: tuple[int, ...]
    weights: str
    environment: dict[str, str]
    devices: dict[str, str] = {}
    rungs: tuple[RungResult, ...]
    layers: tuple[LayerError, ...] = ()
    curves: Curves | None = None
    accuracy: Equivalence | None = None

    @property
    def holds(self) -> bool:
        """Whether no rung failed. Rungs that were skipped, since a backend cannot do what they take, prove nothing."""
        return self.failure is None

    @property
    def failure(self) -> RungResult | None:
        """The first rung that failed, if any did."""
        return next((rung for rung in self.rungs if rung.status == "fail"), None)

    def verdict(self) -> str:
        """One line: that the networks are the same, or the rung and layer at which they part."""
        names = " and ".join(self.backends)
        if self.failure is None:
            skipped = [(reason, list(rungs)) for reason, rungs in groupby(self.rungs, _skipped) if reason]
            trained = self.level != "quick" and all(r.status == "pass" for r in self.rungs if r.number in TRAINING)
            kinds = "in inference and in training" if trained else "in inference"
            count = sum(rung.status == "pass" for rung in self.rungs)
            holding = [f"{count} rungs hold", *(f"{_range(rungs)} skipped: {why}" for why, rungs in skipped)]
            return f"{self.network}: {names} are the same network {kinds} ({'; '.join(holding)})"
        where = f" at {self.failure.where}" if self.failure.where else ""
        open_ = self.accuracy is not None and self.failure.name == "accuracy" and self.accuracy.verdict != "different"
        what = "are not shown to be the same" if open_ else "differ"
        return (
            f"{self.network}: {names} {what} on rung {self.failure.number} ({self.failure.name}){where}: "
            f"{self.failure.detail} ({self.failure.metric} {self.failure.value:.3g}, bound {self.failure.bound:.3g})"
        )

    def to_json(self) -> str:
        """The report as indented JSON, with ``holds`` and ``verdict`` beside the fields."""
        data = {"holds": self.holds, "verdict": self.verdict()} | msgspec.to_builtins(self)
        return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def _skipped(rung: RungResult) -> str:
    """Why a rung was skipped; empty if it was not."""
    return rung.detail if rung.status == "skip" else ""


def _range(rungs: Sequence[RungResult]) -> str:
    """The numbers of consecutive rungs: ``6 to 8``."""
    first, last = rungs[0].number, rungs[-1].number
    return str(first) if first == last else f"{first} to {last}"


def environment() -> dict[str, str]:
    """The software that a result depends on, besides the backends."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
