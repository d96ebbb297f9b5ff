"""Measures cases, each in its own process; those that are compared with each other run in turns."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from random import Random
from statistics import median

from msgspec.structs import asdict, replace

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import trace
from resnet_xf.errors import BenchError, refuse
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Round, WrongError, distinct_images
from resnet_xf.speed.bench.report import BenchReport, Result, Row, merged, with_ratios
from resnet_xf.speed.bench.statistics import format_rate, speed, widening
from resnet_xf.speed.bench.worker import Ceiling, PeakMemory, Ready, ReferenceWritten, Worker
from resnet_xf.support.environment import environment, hardware, memory
from resnet_xf.support.files import temporary_folder
from resnet_xf.support.processes import ProcessDied

Callback = Callable[[int, int, str], object]
"""Takes the number of parts done, the number of all parts, and what was done in words."""

Ceilings = dict[tuple[str, str, str], float]
"""Operations per second of a large matrix product, by device, precision and backend; 0 if there is none."""

TURNS, LONGEST, MOST = 10, 1.0, 60
"""The least number of turns of a case, over all launches; the seconds of a turn if there are more than those; and the
largest number of turns in a launch. Many short turns give a narrower interval than few long ones."""

HEADROOM = 1.5
"""Another process is started only if more than this many times the largest peak of those running is free."""

SEARCH, GAIN = 0.5, 1.03
"""In the search for the best batch: the seconds of a turn, and how many times as fast a larger batch must be to pay."""

FLOPS = {"infer": 2, "train": 6}
"""Floating-point operations per multiply-add of the forward pass; the backward pass takes twice as many."""


def bench(
    cases: Sequence[Case],
    *,
    seconds: float = 5.0,
    launches: int = 1,
    command: str = "",
    callback: Callback | None = None,
) -> BenchReport:
    """Measure the speed of cases.

    The cases of a group (:attr:`Case.group`) are compared with the first of them. Their processes live at the same
    time, as many as the memory holds, and run in turns, so that what slows the machine slows all of them. Differences
    between one process and the next, as where its memory lies, show only with several launches.

    Args:
        cases: the cases; those of a group must follow one another.
        seconds: how long each process runs in all, divided into turns; a turn is at least one step.
        launches: how many times each case's process is started anew.
        command: the command line, for the report.
        callback: called after each part.

    Raises:
        BenchError: if an argument is wrong, or on Windows.
        MissingExtraError: if SciPy is not installed; for two launches and more.
    """
    complaints = {
        "measurements need processes that Windows does not have; use Linux, or a container of it": (
            sys.platform == "win32"
        ),
        f"time: each case must run for more than 0 seconds, got {seconds:g}": not seconds > 0,
        f"launches: each case needs 1 process at least, got {launches}": launches < 1,
    }
    refuse(BenchError, complaints)
    widening(launches)  # needs SciPy: say so before hours are spent
    cases = list(dict.fromkeys(cases))
    turns = min(MOST, max(-(-TURNS // launches), round(seconds / LONGEST)))
    progress = _Progress(launches * len(cases) * (turns + 1), callback)
    ceilings: dict[str, float] = {}
    rows: list[Row] = []
    for _, group in groupby(cases, key=lambda case: case.group):
        launched: dict[Case, list[Row]] = {case: [] for case in group}
        with temporary_folder() as folder:
            for launch in range(launches):
                # A case that was refused in an earlier launch is not started again.
                again = [case for case, earlier in launched.items() if all(row.result for row in earlier)]
                progress.total -= (len(launched) - len(again)) * (turns + 1)
                with ExitStack() as stack:
                    started = _Group(again, turns, seconds / turns, folder, stack, progress, launch)
                    for row in started.measure():
                        launched[row.case].append(row)
                for (_, precision, _), flops in started.ceilings.items():
                    if flops > ceilings.get(precision, 0.0):
                        ceilings[precision] = flops
        rows += with_ratios([merged(one) for one in launched.values()])
    shares = tuple(_with_share(row, ceilings) for row in rows)
    return BenchReport(command=command, environment=environment() | hardware(), ceilings=ceilings, rows=shares)


def best_batch(case: Case, callback: Callback | None = None) -> Case:
    """The case with the batch size of the most images per second, among powers of two.

    The search ends when two batch sizes in a row are not faster by ``GAIN``, or one does not fit into the memory.
    """
    progress = _Progress(0, callback)
    best, best_rate, without_gain = replace(case, batch=1), 0.0, 0
    batch = 1
    while without_gain < 2:
        trial = replace(case, batch=batch)
        with temporary_folder() as folder, ExitStack() as stack:
            group = _Group([trial], 3, SEARCH, folder, stack, progress)
            runner = group.start(trial)
            if isinstance(runner, Row):  # refused
                break
            for turn in range(group.turns):
                runner.run(turn, group.seconds)
        if runner.failure:
            break
        progress(0, f"{trial}: {format_rate(runner.rate)} images/s")
        without_gain = 0 if runner.rate > best_rate * GAIN else without_gain + 1
        if runner.rate > best_rate:
            best, best_rate = trial, runner.rate
        batch *= 2
    return best


def check_memory(case: Case) -> None:
    """Refuse a batch whose activations alone do not fit into the free memory; checks nothing on a GPU.

    Raises:
        BenchError: with the memory that is needed, and a batch that fits.
    """
    available = memory()
    if available is None or case.device != "cpu":
        return
    rows = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))
    sizes = [prod(row.output_shape) for row in rows if row.kind in ("conv", "norm")]
    # Training keeps the output of every layer; inference the input and output of one.
    each = 4 * (sum(sizes) if case.mode == "train" else 2 * max(sizes))
    needed, free = each * case.batch, available.free
    if needed > free:
        raise BenchError(
            f"batch: to {case.mode} {case.spec.name} with {case.batch:,} images of "
            f"{case.image_size[0]}×{case.image_size[1]} takes at least {needed / 2**30:,.0f} GiB of memory, and "
            f"{free / 2**30:,.0f} are free; choose {f'less than {free // each:,}' if free > each else 'smaller images'}"
        )


@dataclass(eq=False)
class _Runner:
    """A case whose process is warm.

    Attributes:
        case: the case.
        worker: its process.
        ready: the message with which the process said that it is warm.
        failure: what ended the process, if anything did.
        rounds: what was measured in each turn, by its number.
    """

    case: Case
    worker: Worker
    ready: Ready
    failure: ProcessDied | None = None
    rounds: dict[int, Round] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, ...]:
        """Images per second of each round."""
        return tuple(one.images / one.seconds for one in self.rounds.values())

    @property
    def rate(self) -> float:
        """The median of the images per second so far; 0 before the first round."""
        return median(self.rates or (0.0,))

    def run(self, turn: int, seconds: float, *, keep: bool = True) -> None:
        """Run for about so many seconds, and keep what was measured unless it is only to get warm."""
        if self.failure is None:
            try:
                done = self.worker.ask(seconds, Round)
            except ProcessDied as died:
                self.failure = died
                return
            if keep:
                self.rounds[turn] = done

    def finish(self, ceilings: Ceilings) -> Row:
        """End the process, and return its result, or a row without one if it died.

        The ceiling is measured and added unless a case of the same device, precision and backend has done so.
        """
        try:
            if self.failure:
                raise self.failure
            peak = self.worker.ask("memory", PeakMemory)
            key = self.case.device, self.case.precision, self.case.backend
            if key not in ceilings:
                with suppress(ProcessDied):
                    ceilings[key] = self.worker.ask("ceiling", Ceiling).flops or 0.0
        except ProcessDied as died:
            return _unmeasured(self.case, died)
        finally:
            self.worker.end()
        result = Result(
            **asdict(self.ready.prepared) | {"steps": (*self.ready.prepared.steps, *self.worker.settings)},
            speed=speed(self.rates),
            rates=(dict(zip(self.rounds, self.rates, strict=True)),),
            share=None,
            host_memory=peak.host,
            device_memory=peak.device,
            busy_processors=median(one.processors for one in self.rounds.values()),
        )
        return Row(case=self.case, result=result)


def _unmeasured(case: Case, error: Exception) -> Row:
    """The row of a case that was refused or whose process died."""
    return Row(case=case, reason=str(error), failed=isinstance(error, WrongError | ProcessDied))


@dataclass
class _Group:
    """Cases that are compared with the first of them, in one launch.

    ``stack`` ends all processes when it is closed; ``folder`` is for temporary files and the reference outputs.
    :meth:`measure` fills ``ceilings``.
    """

    cases: list[Case]
    turns: int
    seconds: float
    folder: Path
    stack: ExitStack
    progress: Callable[[int, str], None]
    launch: int = 0
    ceilings: Ceilings = field(default_factory=dict)

    def measure(self) -> list[Row]:
        """Measure the cases, as many at the same time as the memory holds, each beside the first one."""
        rows: list[Row] = []
        waiting = deque(self.cases)
        baseline: _Runner | None = None
        turn = 0
        while waiting:
            together = [baseline] if baseline else []
            while waiting and (len(together) < 2 or _fits_another(together)):
                started = self.start(waiting.popleft())
                if isinstance(started, Row):
                    rows.append(started)
                else:
                    together.append(started)
            if together == [baseline]:  # all others were refused
                continue
            for runner in together:  # each has waited while the others got ready, and is not warm any more
                runner.run(turn, self.seconds, keep=False)
            for _ in range(self.turns):
                # The order changes, because what ran before leaves its caches and clock rates to the next.
                for runner in Random(f"{self.launch} {turn}").sample(together, len(together)):
                    runner.run(turn, self.seconds)
                    if runner is not baseline:
                        self.progress(1, f"{runner.case}: {format_rate(runner.rate)} images/s")
                turn += 1
            baseline = next((runner for runner in together if not runner.failure), None)
            rows += [runner.finish(self.ceilings) for runner in together if runner is not baseline]
        return [*rows, baseline.finish(self.ceilings)] if baseline else rows

    def start(self, case: Case) -> _Runner | Row:
        """Start a case's process, and wait until it is warm. If it cannot be measured, return a row that says why."""
        self.progress(0, f"{case}: getting ready")
        reference = self.folder / f"{case.mode}-{distinct_images(case.batch)}.npy"
        try:
            check_memory(case)
            if not reference.exists():
                self._worker(case, reference).receive(ReferenceWritten)
            worker = self._worker(case, reference)
            runner = _Runner(case, worker, worker.receive(Ready))
        except (BenchError, ProcessDied) as error:
            self.progress(self.turns + 1, f"{case}: {error}")
            return _unmeasured(case, error)
        self.progress(1, f"{case}: ready")
        return runner

    def _worker(self, case: Case, reference: Path) -> Worker:
        worker = Worker(case, reference, self.folder)
        self.stack.callback(worker.end)
        return worker


@dataclass
class _Progress:
    """Counts the parts that are done, and calls the callback; a case has one part for getting ready and one a turn."""

    total: int
    callback: Callback | None
    done: int = 0

    def __call__(self, parts: int, text: str) -> None:
        self.done += parts
        if self.callback is not None:
            self.callback(self.done, self.total, text)


def _fits_another(runners: Sequence[_Runner]) -> bool:
    """Whether one more process probably fits into the free memory, if that is known; never on a GPU."""
    if any(runner.case.device != "cpu" for runner in runners):
        return False
    available = memory()
    return available is None or available.free > HEADROOM * max(runner.ready.memory for runner in runners)


def _with_share(row: Row, ceilings: dict[str, float]) -> Row:
    """The row with its speed as a share of its precision's ceiling, if both are known."""
    case, result = row.case, row.result
    if result is None or case.precision not in ceilings:
        return row
    macs = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))[0].macs
    share = result.speed.median * macs * FLOPS[case.mode] / ceilings[case.precision]
    return replace(row, result=replace(result, share=share))
