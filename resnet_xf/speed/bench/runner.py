"""A runner: a case (what one measurement runs) and its running process. It becomes a row of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from msgspec.structs import asdict

from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Round, WrongError
from resnet_xf.speed.bench.report import Result, Row
from resnet_xf.speed.bench.statistics import speed
from resnet_xf.speed.bench.worker import PeakMemory, Ready, Worker, backend_variables
from resnet_xf.support.processes import ProcessDied


@dataclass(eq=False)
class Runner:
    """A case (what one measurement runs), its running process, and what was measured so far.

    Attributes:
        case: the case.
        worker: its process.
        began: when the process was started, in :func:`time.monotonic` seconds.
        state: of the network: ``building``; ``built``, waiting to start; ``starting``: it compiles and runs its first
            batch; ``ready`` to be timed.
        alone: whether it starts again after the GPU's memory was full. Then no other process may start beside it.
        ready: the message with which the process said that it is ready; None before.
        warm_up: seconds of the warm-up.
        failure: the error of a process that has died, else None.
        rounds: what was measured in each turn, by its number.
        held: bytes of the GPU's memory that the process has now.
    """

    case: Case
    worker: Worker
    began: float
    state: Literal["building", "built", "starting", "ready"] = "building"
    alone: bool = False
    ready: Ready | None = None
    warm_up: float = 0.0
    failure: ProcessDied | None = None
    rounds: dict[int, Round] = field(default_factory=dict)
    held: int = 0

    @property
    def rates(self) -> tuple[float, ...]:
        """Images per second of each turn so far."""
        return tuple(one.images / one.seconds for one in self.rounds.values())

    @property
    def rate(self) -> float:
        """The median of the images per second so far; 0 before the first turn."""
        return median(self.rates or (0.0,))

    @property
    def kept(self) -> int:
        """Bytes of the GPU's memory that the process keeps when it has given back what it can; 0 on a CPU."""
        return self.ready.memory.held if self.ready else 0

    @property
    def peak(self) -> int:
        """The most bytes of the GPU's memory that the process had before it was ready; 0 on a CPU."""
        return (self.ready.peak.device or 0) if self.ready else 0

    def row(self, peak: PeakMemory | None = None) -> Row:
        """Return the row of the report: what was measured, or no result if the process died.

        ``peak`` is the memory's peak at the end; if None, the peak when the process was ready.
        """
        if self.failure:
            return unmeasured(self.case, self.failure)
        assert self.ready is not None
        variables = backend_variables(self.case.backend, self.case.preset)
        settings = tuple(f"{name}={value}" for name, value in sorted(variables.items()))
        prepared, peak = self.ready.prepared, peak or self.ready.peak
        result = Result(
            **asdict(prepared) | {"steps": (*prepared.steps, *settings)},
            warm_up=self.warm_up,
            speed=speed(self.rates),
            rates=(dict(zip(self.rounds, self.rates, strict=True)),),
            share=None,
            host_memory=peak.host,
            device_memory=peak.device,
            busy_processors=median(one.processors for one in self.rounds.values()),
        )
        return Row(case=self.case, result=result)


def unmeasured(case: Case, error: Exception) -> Row:
    """Return the row of a case that was refused or whose process died, with the error as its reason."""
    return Row(case=case, reason=str(error), failed=isinstance(error, WrongError | ProcessDied))
