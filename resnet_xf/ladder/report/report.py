"""The result of a parity run (a comparison of networks), as typed data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Literal, get_args

import msgspec

from resnet_xf.architecture.spec import Spec
from resnet_xf.errors import ResNetXFError
from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.report.wording import listed

Level = Literal["quick", "standard", "full"]
"""How many rungs are compared. ``quick``: inference. ``standard``: also layers, gradients and training step by step.
``full``: also learning curves and accuracies."""

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
    """The result of one rung of the ladder.

    Attributes:
        number: its place in the ladder, from 1.
        name: what it compares, in a word or two.
        status: ``pass``; ``fail``; ``skip`` if a rung below it failed or too few backends can do what it needs; or
            ``inconclusive`` if rounding errors grow so much that the comparison proves nothing.
        metric: what ``value`` and ``bound`` measure.
        value: the largest difference. None if the rung was skipped; infinite (``null`` in JSON) if shapes differ, a
            value is not finite, or a network does not run.
        bound: the largest ``value`` that passes.
        where: the first layer or tensor that differs, if any does.
        detail: one line on what was compared, on what is wrong, or on what a backend cannot do.
        seconds: how long it took.
        remark: what a pass does not prove; the verdict repeats it.
        left_out: the backends that it does not compare, each with the reason.
    """

    number: int
    name: str
    status: Literal["pass", "fail", "skip", "inconclusive"]
    metric: str
    value: float | None = None
    bound: float | None = None
    where: str | None = None
    detail: str = ""
    seconds: float = 0.0
    remark: str = ""
    left_out: dict[str, str] = {}


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """The relative errors of one layer, from rung 6. A side is one of the networks that are compared.

    Attributes:
        name, kind: the layer's name, and its kind, such as ``conv``.
        inherited: error of its float64 output in the whole network, against the first side's.
        inherited_bound: the largest ``inherited`` that passes.
        own: error of its float64 output when it gets the other side's input; None if it could not be measured.
        own_bound: the largest ``own`` that passes.
        float32: for each side, the error of its float32 output against its float64 output for the same input.
        float32_bound: the largest of ``float32`` that passes.
    """

    name: str
    kind: str
    inherited: float
    inherited_bound: float
    own: float | None = None
    own_bound: float | None = None
    float32: dict[str, float] = {}
    float32_bound: float = 0.0

    def excess(self) -> tuple[float, float, str] | None:
        """Return the first error that exceeds its bound, the bound, and what is wrong; None if none does."""
        if self.own is not None and self.own_bound is not None and not self.own <= self.own_bound:
            return self.own, self.own_bound, "given the other side's input it gives another output"
        for side, error in self.float32.items():
            if not error <= self.float32_bound:
                return error, self.float32_bound, f"{side} in float32 is not its own float64 result"
        if not self.inherited <= self.inherited_bound:
            return self.inherited, self.inherited_bound, "its output differs in the whole network"
        return None


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """The float32 training losses of rung 9, step by step.

    Attributes:
        losses: for each side (network that is compared), the losses of its run.
        nudged: for each side, the losses of runs in which every initial weight is replaced by a float32 value next to
            it.
    """

    losses: dict[str, tuple[float, ...]]
    nudged: dict[str, tuple[tuple[float, ...], ...]]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a parity run: what was compared, and the result of each rung.

    Attributes:
        network: the network's name.
        spec: the network as data; None for a pair of the user's own networks.
        level: ``quick``, ``standard`` or ``full``.
        command: the command that made this report; empty if Python code made it.
        created: when the run began, in UTC.
        backends: for each backend, or network of a pair, the version of its framework.
        images: where the images that the networks were given came from, in words.
        input_shape: their shape ``(N, C, H, W)``.
        weights: where the weights came from, in words.
        weights_digest: BLAKE2b (16 bytes, in hex) over the names, dtypes, shapes and bytes of all weights.
        environment: the versions of this package, Python and NumPy, and the machine.
        devices: for each of ``backends``, the device on which it ran.
        rungs: the ladder, cheapest first.
        layers: the errors of rung 6, in the order in which layers run.
        curves: the losses of rung 9.
        accuracy: the accuracies of rung 10.
        version: the version of this format.
    """

    version: Literal[2] = 2
    network: str
    spec: Spec | None = None
    level: Level = "standard"
    command: str = ""
    created: datetime | None = None
    backends: dict[str, str]
    images: str
    input_shape: tuple[int, ...]
    weights: str
    weights_digest: str = ""
    environment: dict[str, str]
    devices: dict[str, str] = {}
    rungs: tuple[RungResult, ...]
    layers: tuple[LayerError, ...] = ()
    curves: Curves | None = None
    accuracy: Equivalence | None = None

    @property
    def holds(self) -> bool:
        """Whether no rung failed or is inconclusive. A rung that a backend cannot do is skipped and proves nothing."""
        return self.failure is None and self.undecided is None

    @property
    def undecided(self) -> RungResult | None:
        """The first rung that is inconclusive, or None."""
        return next((rung for rung in self.rungs if rung.status == "inconclusive"), None)

    @property
    def failure(self) -> RungResult | None:
        """The first rung that failed, or None."""
        return next((rung for rung in self.rungs if rung.status == "fail"), None)

    def verdict(self) -> str:
        """Return the result in one line, which also names the rungs that were skipped.

        The networks are the same, in inference or also in training; or they differ, at a rung and a layer; or their
        accuracies do not show them to be the same; or a rung is inconclusive.
        """
        decides = self.failure or self.undecided
        names = listed([name for name in self.backends if not decides or name not in decides.left_out])
        if self.failure is None and self.undecided is not None:
            return f"{self.network}: {names}: {self.undecided.detail}"
        if self.failure is None:
            skipped = [(reason, list(rungs)) for reason, rungs in groupby(self.rungs, _skipped) if reason]
            passed = [rung for rung in self.rungs if rung.status == "pass"]
            kinds = "in inference"
            if {rung.number for rung in passed}.issuperset(TRAINING):
                left_out = {name for rung in passed for name in rung.left_out}
                trained = [name for name in self.backends if name not in left_out]
                kinds += f", and {listed(trained)} in training" if left_out else " and in training"
            holding = [f"{len(passed)} rungs hold", *(rung.remark for rung in self.rungs if rung.remark)]
            parts = [(reason, list(rungs)) for reason, rungs in groupby(passed, _left_out) if reason]
            holding += [f"{_range(rungs)} without {why}" for why, rungs in parts]
            holding += [f"{_range(rungs)} skipped: {why}" for why, rungs in skipped]
            return f"{self.network}: {names} are the same network {kinds} ({'; '.join(holding)})"
        where = f" at {self.failure.where}" if self.failure.where else ""
        undecided = (
            self.accuracy is not None and self.failure.name == "accuracy" and self.accuracy.verdict != "different"
        )
        what = "are not shown to be the same" if undecided else "differ"
        return (
            f"{self.network}: {names} {what} on rung {self.failure.number} ({self.failure.name}){where}: "
            f"{self.failure.detail} ({self.failure.metric} {self.failure.value:.3g}, bound {self.failure.bound:.3g})"
        )

    def to_json(self) -> str:
        """Return the report as indented JSON, with ``holds`` and ``verdict`` beside the fields."""
        data = {"holds": self.holds, "verdict": self.verdict()} | msgspec.to_builtins(self)
        return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def _skipped(rung: RungResult) -> str:
    """Return why a rung was skipped; empty if it was not."""
    return rung.detail if rung.status == "skip" else ""


def _left_out(rung: RungResult) -> str:
    """Return a text with the backends that a rung does not compare, and why; empty if it compares all."""
    return ", ".join(f"{name}: {why}" for name, why in rung.left_out.items())


def _range(rungs: Sequence[RungResult]) -> str:
    """Return the numbers of consecutive rungs as text: ``6 to 8``."""
    first, last = rungs[0].number, rungs[-1].number
    return str(first) if first == last else f"{first} to {last}"
