"""What a parity run found, as typed data."""

from __future__ import annotations

import platform
from typing import Literal

import msgspec
import numpy as np

from resnet_xf.spec import ResNetSpec


class RungResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder.

    Attributes:
        number: its place, from 1.
        name: what it compares, in a word or two.
        status: ``pass``, ``fail``, or ``skip`` if a rung below it failed.
        metric: what ``value`` and ``bound`` measure.
        value: the worst that was found; None in a rung that was skipped, infinite (``null`` in JSON) where shapes
            differ, something is not finite or a network does not run.
        bound: the largest value that passes.
        where: the first layer or tensor that diverges, if any does.
        detail: one line on what was found.
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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole parity run.

    Attributes:
        spec: the network.
        backends: the versions that were compared, by backend.
        images: what was shown to the networks.
        input_shape: ``(N, C, H, W)``.
        weights: where the weights came from.
        environment: the machine's software.
        rungs: the ladder, cheapest first.
    """

    spec: ResNetSpec
    backends: dict[str, str]
    images: str
    input_shape: tuple[int, ...]
    weights: str
    environment: dict[str, str]
    rungs: tuple[RungResult, ...]

    @property
    def holds(self) -> bool:
        """Whether every rung passed."""
        return all(rung.status == "pass" for rung in self.rungs)

    @property
    def failure(self) -> RungResult | None:
        """The first rung that failed, if any did."""
        return next((rung for rung in self.rungs if rung.status == "fail"), None)

    def verdict(self) -> str:
        """One line: that the networks are the same, or the rung and layer at which they part."""
        names = " and ".join(self.backends)
        if self.failure is None:
            return f"{self.spec.name}: {names} are the same network in inference ({len(self.rungs)} rungs hold)"
        where = f" at {self.failure.where}" if self.failure.where else ""
        return (
            f"{self.spec.name}: {names} differ on rung {self.failure.number} ({self.failure.name}){where}: "
            f"{self.failure.detail} ({self.failure.metric} {self.failure.value:.3g}, bound {self.failure.bound:.3g})"
        )

    def to_json(self) -> str:
        """The report as indented JSON, with ``holds`` and ``verdict`` beside the fields."""
        data = {"holds": self.holds, "verdict": self.verdict()} | msgspec.to_builtins(self)
        return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def environment() -> dict[str, str]:
    """The software that a result depends on, besides the backends."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
