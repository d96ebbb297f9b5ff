"""Measures cases, each in a process of its own; those that are compared take turns."""

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
from tempfile import TemporaryDirectory

import msgspec

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import trace
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Round, distinct_images
from resnet_xf.speed.bench.report import BenchReport, Result, Row, merged, with_ratios
from resnet_xf.speed.bench.statistics import in_words, speed, widening
from resnet_xf.speed.bench.worker import Ceiling, PeakMemory, Ready, ReferenceWritten, Refused, Worker
from resnet_xf.support.environment import environment, hardware, memory
from resnet_xf.support.processes import ProcessDied

Callback = Callable[[int, int, str], object]

Ceilings = dict[tuple[str, str, str], float]
"""Flops a second by device, precision and backend; 0 where there is no such product."""

TURNS, LONGEST, MOST = 10, 1.0, 60
"""How often each case of a group runs at least, over all launches; for how many seconds at a time, if that is often
enough; and how often at most in a launch. Many short turns give the narrower interval."""

ROOM = 1.5
"""How many times the largest process's peak must be free before another is started beside them."""

SEARCH, GAIN = 0.5, 1.03
"""Seconds of a turn in the search for the best batch, and how much faster one must be for the search to go on."""

FLOPS = {"infer": 2, "train": 6}
"""Floating-point operations for each multiply-add of the forward pass; backward takes twice as many."""


def bench(
    cases: Sequence[Case],
    *,
    seconds: float = 5.0,
    launches: int = 1,
    command: str = "",
    callback: Callback | None = None,
) -> BenchReport:
    """Measure cases.

    The cases of a group (:attr:`Case.group`) are compared with its first one. Their processes live side by side, as
    many as memory holds, and run in turns: each once, and then again, ten times and more. What is peculiar to one
    process, as the place of its memory is, does not cancel out so; ``launches`` show it, and four are few.

    Args:
        cases: those of one group one after the other.
        seconds: how long each process is run, over all turns; a turn has one step at least.
        launches: how many processes each case has, one after the other.
        command: what was asked for, for the report.
        callback: told how many parts are done, of how many, and in words what was done.

    Raises:
        BenchError: if a case cannot be.
    """
    if sys.platform == "win32":
        raise BenchError("measurements need processes that Windows does not have; use Linux, or a container of it")
    if not seconds > 0:
        raise BenchError(f"time: each case must run for more than 0 seconds, got {seconds:g}")
    if launches < 1:
        raise BenchError(f"launches: each case needs 1 process at least, got {launches}")
    widening(launches)  # asks for SciPy before hours are spent
    cases = list(dict.fromkeys(cases))
    turns = min(MOST, max(-(-TURNS // launches), round(seconds / LONGEST)))
    tell = _Teller(launches * len(cases) * (turns + 1), callback)
    ceilings: dict[str, float] = {}
    rows: list[Row] = []
    for _, group in groupby(cases, key=lambda case: case.group):
        wanted: dict[Case, list[Row]] = {case: [] for case in group}
        with TemporaryDirectory() as folder:
            for launch in range(launches):
                # What was refused once is not asked again.
                again = [case for case, before in wanted.items() if all(row.result for row in before)]
                tell.total -= (len(wanted) - len(again)) * (turns + 1)
                with ExitStack() as stack:
                    started = _Group(again, turns, seconds / turns, Path(folder), stack, tell, launch)
                    for row in started.measure():
                        wanted[row.case].append(row)
                for (_, precision, _), flops in started.ceilings.items():
                    if flops > ceilings.get(precision, 0.0):
                        ceilings[precision] = flops
        rows += with_ratios([merged(launched) for launched in wanted.values()])
    shown = tuple(_with_share(row, ceilings) for row in rows)
    return BenchReport(command=command, environment=environment() | hardware(), ceilings=ceilings, rows=shown)


def best_batch(case: Case, callback: Callback | None = None) -> Case:
    """The case with the batch that gives the most images a second: doubled for as long as that pays and fits."""
    tell = _Teller(0, callback)
    best, most, worse = msgspec.structs.replace(case, batch=1), 0.0, 0
    batch = 1
    while worse < 2:
        tried = msgspec.structs.replace(case, batch=batch)
        with TemporaryDirectory() as folder, ExitStack() as stack:
            group = _Group([tried], 3, SEARCH, Path(folder), stack, tell)
            runner = group.start(tried)
            for turn in range(group.turns):
                runner.turn(turn, group.seconds)
        if runner.row is not None:  # out of memory, for one
            break
        tell(0, f"{tried}: {in_words(runner.rate)} images/s")
        worse = 0 if runner.rate > most * GAIN else worse + 1
        if runner.rate > most:
            best, most = tried, runner.rate
        batch *= 2
    return best


def check_memory(case: Case) -> None:
    """Refuse a batch that this machine's memory cannot hold.

    Raises:
        BenchError: saying how much is needed, and what would fit.
    """
    available = memory()
    if available is None or case.device != "cpu":
        return
    rows = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))
    maps = [prod(row.output_shape) for row in rows if row.kind in ("conv", "norm")]
    # Training keeps what each layer gives; inference what the largest reads and gives.
    each = 4 * (sum(maps) if case.mode == "train" else 2 * max(maps))
    needed, free = each * case.batch, available.free
    if needed > free:
        raise BenchError(
            f"batch: to {case.mode} {case.spec.name} with {case.batch:,} images of "
            f"{case.image_size[0]}×{case.image_size[1]} takes at least {needed / 2**30:,.0f} GiB of memory, and "
            f"{free / 2**30:,.0f} are free; choose {f'less than {free // each:,}' if free > each else 'smaller images'}"
        )


@dataclass(eq=False)
class _Runner:
    """A case while it is measured; ``row`` is there once it has ended."""

    case: Case
    worker: Worker | None = None
    ready: Ready | None = None
    row: Row | None = None
    rounds: dict[int, Round] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, ...]:
        """Images a second of each round."""
        return tuple(one.images / one.seconds for one in self.rounds.values())

    @property
    def rate(self) -> float:
        """Their median; 0 before the first."""
        return median(self.rates or (0.0,))

    def lose(self, reason: str, *, failed: bool) -> None:
        """End without a result, and the process with it."""
        if self.worker is not None:
            self.worker.end()
        self.row = Row(case=self.case, reason=reason, failed=failed)

    def turn(self, number: int, seconds: float, *, kept: bool = True) -> None:
        """Run for about that long; a turn that is not kept is only to get warm."""
        if self.row is None and self.worker is not None:
            try:
                answer = self.worker.ask(seconds)
            except ProcessDied as died:
                self.lose(str(died), failed=True)
                return
            assert isinstance(answer, Round)
            if kept:
                self.rounds[number] = answer

    def end(self, ceilings: Ceilings) -> None:
        """Ask for its last words; and for the ceiling, unless a case of that backend and precision has told it."""
        if self.row is not None or self.worker is None or self.ready is None:
            return
        try:
            used = self.worker.ask("memory")
        except ProcessDied as died:
            self.lose(str(died), failed=True)
            return
        assert isinstance(used, PeakMemory)
        result = Result(
            speed=speed(self.rates),
            rates=(dict(zip(self.rounds, self.rates, strict=True)),),
            error=self.ready.error,
            agreement=self.ready.agreement,
            share=None,
            build=self.ready.build,
            first=self.ready.first,
            warm_up=self.ready.warm_up,
            host_memory=used.host,
            device_memory=used.device,
            threads=self.ready.threads,
            busy_processors=median(one.processors for one in self.rounds.values()),
            version=self.ready.version,
            steps=(*self.ready.steps, *self.worker.settings),
        )
        self.row = Row(case=self.case, result=result)
        key = self.case.device, self.case.precision, self.case.backend
        if key not in ceilings:
            with suppress(ProcessDied):
                ceiling = self.worker.ask("ceiling")
                assert isinstance(ceiling, Ceiling)
                ceilings[key] = ceiling.flops or 0.0
        self.worker.end()


@dataclass
class _Group:
    """Cases that are compared with their first; the processes end with the stack."""

    cases: list[Case]
    turns: int
    seconds: float
    folder: Path
    stack: ExitStack
    tell: Callable[[int, str], None]
    launch: int = 0
    ceilings: Ceilings = field(default_factory=dict)

    def measure(self) -> list[Row]:
        """Their rows. As many as memory holds run at a time, and the first one beside all of them."""
        everyone: list[_Runner] = []
        waiting = deque(self.cases)
        baseline: _Runner | None = None
        turn = 0
        while waiting:
            beside = [baseline] if baseline else []
            while waiting and (len(beside) < 2 or _room(beside)):
                runner = self.start(waiting.popleft())
                everyone.append(runner)
                if runner.row is None:
                    beside.append(runner)
            if beside == [baseline]:  # all others were refused
                continue
            for runner in beside:  # each has waited while the others got ready, and is not warm any more
                runner.turn(turn, self.seconds, kept=False)
            for _ in range(self.turns):
                # In another order each time, since what ran before leaves its clocks and caches to what comes next.
                for runner in Random(f"{self.launch} {turn}").sample(beside, len(beside)):
                    runner.turn(turn, self.seconds)
                    if runner is not baseline:
                        self.tell(1, f"{runner.case}: {in_words(runner.rate)} images/s")
                turn += 1
            baseline = next((runner for runner in beside if runner.row is None), None)
            for runner in beside:
                if runner is not baseline:
                    runner.end(self.ceilings)
        if baseline is not None:
            baseline.end(self.ceilings)
        return [runner.row for runner in everyone if runner.row is not None]

    def start(self, case: Case) -> _Runner:
        """A case that is ready to run; or with the reason why it is not."""
        runner = _Runner(case)
        self.tell(0, f"{case}: getting ready")
        reference = self.folder / f"{case.mode}-{distinct_images(case.batch)}.npy"
        try:
            check_memory(case)
            worker = self._worker(case, reference)
            ready = worker.receive()
            if isinstance(ready, ReferenceWritten):
                worker = self._worker(case, reference)
                ready = worker.receive()
        except BenchError as error:
            runner.lose(str(error), failed=False)
        except ProcessDied as died:
            runner.lose(str(died), failed=True)
        else:
            if isinstance(ready, Ready):
                runner.worker, runner.ready = worker, ready
                self.tell(1, f"{case}: ready")
                return runner
            assert isinstance(ready, Refused)
            runner.lose(ready.reason, failed=ready.wrong)
        assert runner.row is not None
        self.tell(self.turns + 1, f"{case}: {runner.row.reason}")
        return runner

    def _worker(self, case: Case, reference: Path) -> Worker:
        worker = Worker(case, reference, self.folder)
        self.stack.callback(worker.end)
        return worker


@dataclass
class _Teller:
    """Tells how far a bench is: each case has a part for getting ready and one for every turn."""

    total: int
    callback: Callback | None
    done: int = 0

    def __call__(self, parts: int, text: str) -> None:
        self.done += parts
        if self.callback is not None:
            self.callback(self.done, self.total, text)


def _room(runners: Sequence[_Runner]) -> bool:
    """Whether one more process would find memory beside these."""
    available = memory()
    if any(runner.case.device != "cpu" for runner in runners):  # whose memory no two share that need all of it
        return False
    return available is None or available.free > ROOM * max(runner.ready.memory for runner in runners if runner.ready)


def _with_share(row: Row, ceilings: dict[str, float]) -> Row:
    """The row with its result's share of the ceiling."""
    case, found = row.case, row.result
    if found is None or case.precision not in ceilings:
        return row
    macs = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))[0].macs
    share = found.speed.median * macs * FLOPS[case.mode] / ceilings[case.precision]
    return msgspec.structs.replace(row, result=msgspec.structs.replace(found, share=share))
