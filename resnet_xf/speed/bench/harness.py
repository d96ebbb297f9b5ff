"""Measures cases, each in its own process; those that are compared with each other run in turns."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from math import inf

from msgspec.structs import replace

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import trace
from resnet_xf.backend.fast import PRESETS
from resnet_xf.errors import BenchError, refuse
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.crew import Crew, Ended, Log
from resnet_xf.speed.bench.report import NOT_MEASURED, BenchReport, Row, merged, with_ratios
from resnet_xf.speed.bench.runner import Runner
from resnet_xf.speed.bench.statistics import format_rate, widening
from resnet_xf.speed.bench.turns import Ceilings, finish, take_turns, too_many, unfinished
from resnet_xf.support.environment import environment, hardware, processors
from resnet_xf.support.files import temporary_folder
from resnet_xf.support.processes import supervise

Callback = Callable[[int, int, str], object]
"""Takes the number of parts done, the number of all parts, and what was done in words."""

Keep = Callable[[BenchReport, int], object]
"""Takes the report so far, and how many groups are complete, counted from the first up to one that is not."""

TURNS, LONGEST, MOST = 10, 1.0, 60
"""``TURNS``: the least number of turns of a case, over all launches. ``LONGEST``: the longest turn in seconds, until
``MOST`` turns in a launch are reached. Many short turns give a narrower interval than few long ones."""

RESERVE = 2.0, 0.05, 10.0
"""What is kept of a budget to end the processes and write the report: 5 % of it, at least 2 s and at most 10 s."""

SEARCH, GAIN = 0.5, 1.03
"""In the search for the best batch: the seconds of a turn, and the factor by which a larger batch must be faster."""

FLOPS = {"infer": 2, "train": 6}
"""For each mode: floating-point operations per multiply-add of a forward pass. A backward pass takes twice as many."""

STOPPING = b"\nresnet-xf: stopping, as soon as the report is written; again to quit without one\n"
"""What the user is told when a signal stops a bench."""

TO_SAVE = 60.0
"""Seconds that the processes of a bench have to end after they were asked to stop."""


def check_options(seconds: float, launches: int, budget: float | None) -> None:
    """Check options of :func:`bench` before hours are spent.

    Raises:
        BenchError: if one is wrong, or on Windows.
        MissingExtraError: if SciPy is not installed; for two launches and more.
    """
    complaints = {
        "measurements need processes that Windows does not have; use Linux, or a container of it": (
            sys.platform == "win32"
        ),
        f"time: expected more than 0 seconds, and not for ever, got {seconds:g}": not 0 < seconds < inf,
        f"launches: each case needs 1 process at least, got {launches}": launches < 1,
        f"budget: expected more than 0 seconds, got {budget}": budget is not None and not budget > 0,
    }
    refuse(BenchError, complaints)
    widening(launches)  # needs SciPy


def bench(
    cases: Sequence[Case],
    *,
    seconds: float = 5.0,
    launches: int = 1,
    budget: float | None = None,
    start: float | None = None,
    command: str = "",
    callback: Callback = lambda done, total, text: None,
    log: Log = lambda line: None,
    keep: Keep = lambda report, complete: None,
) -> BenchReport:
    """Measure the speed of cases, each in a process of its own, and return the report.

    The cases of a group (:attr:`Case.group`) are compared with the first of them. Their processes live at the same
    time, as many as the memory holds, and get ready at the same time. Then they run in turns, one at a time, so that
    what slows the machine slows all of them. Differences between one process and the next, such as where its memory
    lies, show only with several launches.

    Args:
        cases: the cases; the cases of a group must follow one another.
        seconds: how long each process runs in all, divided into turns; a turn is at least one step.
        launches: how many times each case's process is started anew.
        budget: seconds for everything. Then cases get ready in the order of their presets, turns are shortened if need
            be, and the report lists what was not measured. None: as long as it takes.
        start: when the budget began, in :func:`time.monotonic` seconds; None: now.
        command: the command line, for the report.
        callback: called after each part (getting ready, and each turn) with the parts done, all parts, and a text.
        log: called with a line when a case is started, is ready, or is measured.
        keep: called at the start, after each group, and at the end. The report is marked as partial until the last.

    Raises:
        BenchError, MissingExtraError: as :func:`check_options`.
        SystemExit: after Ctrl-C or SIGTERM, when ``keep`` has got the report so far.
    """
    start = time.monotonic() if start is None else start
    check_options(seconds, launches, budget)
    turns = min(MOST, max(-(-TURNS // launches), round(seconds / LONGEST)))
    parts = turns + 1
    results = _Results({case: [] for case in cases}, launches, budget, command)
    progress = _Progress(launches * len(results.rows) * parts, callback)
    keep(results.report(), 0)
    number = 0
    with temporary_folder() as folder, supervise(STOPPING, TO_SAVE) as supervisor:
        crew = Crew(cases, supervisor, folder, progress, log, results.add, parts, _deadline(start, budget))
        try:
            number_of_first, left = 0, launches * len(results.rows)
            for span in _spans(list(results.rows)):
                for launch in range(launches):
                    now, own = time.monotonic(), sum(map(len, span))
                    crew.goal, left = now + (crew.ends - now) * own / left, left - own
                    # A case that was refused in an earlier launch is not started again.
                    again = [[case for case in group if results.is_sound(case)] for group in span]
                    progress.total -= (sum(map(len, span)) - sum(map(len, again))) * parts
                    for group in _measure(crew, again, launch, turns, seconds, results, ordered=budget is not None):
                        if launch == launches - 1:
                            results.finished.add(number_of_first + group)
                        keep(results.report(), results.complete)
                number_of_first += len(span)
        except Ended as end:
            number, results.stopped = end.number, end.why
            for row in unfinished(crew):
                results.add(row)
    report = results.report(final=True)
    keep(report, len(list(report.groups())))
    if number:
        raise SystemExit(128 + number)
    return report


def _deadline(start: float, budget: float | None) -> float:
    """Return when processes must end, in :func:`time.monotonic` seconds; infinite if ``budget`` is None."""
    least, share, most = RESERVE
    return inf if budget is None else start + budget - min(most, max(least, share * budget))


def _spans(cases: Sequence[Case]) -> Iterator[list[list[Case]]]:
    """Yield lists of groups of cases that get ready together: one group, or more while there are enough processors."""
    span: list[list[Case]] = []
    for _, cases_of_group in groupby(cases, key=lambda case: case.group):
        group = list(cases_of_group)
        if span and sum(map(len, span)) + len(group) > processors():
            yield span
            span = []
        span.append(group)
    if span:
        yield span


def _measure(
    crew: Crew,
    groups: Sequence[Sequence[Case]],
    launch: int,
    turns: int,
    seconds: float,
    results: _Results,
    *,
    ordered: bool,
) -> Iterator[int]:
    """Measure one launch of some groups of cases. A group's first case runs again beside each part of the group.

    A group is measured in parts if the memory does not hold all its processes. ``launch``: the launch's number.
    ``turns``: how many, of ``seconds`` in all. ``results``: gets the rows. ``ordered``: whether to start by preset.

    Yields:
        The number of each group when it is complete; a later group may be so before an earlier one.

    Raises:
        Ended: if a signal stops the bench, or its time is up.
    """
    waiting = [case for group in groups for case in group]
    if ordered or (waiting[:1] and waiting[0].device != "cpu"):
        waiting.sort(key=lambda case: list(PRESETS).index(case.preset))
    kept: dict[int, Runner] = {}
    first_turn, ceilings = Counter[int](), defaultdict[int, Ceilings](dict)
    open_groups = dict(enumerate(groups))
    while open_groups:
        waiting = crew.prepare(waiting)
        for number, group in list(open_groups.items()):
            baseline = kept.get(number)
            runners = [runner for runner in crew.runners if runner.case in group and runner is not baseline]
            runners.sort(key=lambda runner: group.index(runner.case))
            if baseline:
                runners.insert(0, baseline)
            waiting += too_many(crew, runners)
            runners = [runner for runner in runners if runner in crew.runners]
            if any(runner is not baseline for runner in runners):
                begin = first_turn[number]
                first_turn[number] += turns
                ready = sum(runner not in kept.values() for runner in crew.runners)
                share = len(runners) / max(len(runners), ready)
                take_turns(crew, runners, range(begin, begin + turns), seconds, launch, share, baseline)
                baseline = next((runner for runner in runners if not runner.failure), None)
            rest = any(case in group for case in waiting)
            for runner in runners:
                if not rest or runner is not baseline:
                    results.add(finish(crew, runner, ceilings[number]))
            results.add_ceilings(ceilings[number])
            if rest and baseline:
                kept[number] = baseline
            else:
                kept.pop(number, None)
            if not rest:
                del open_groups[number]
                yield number


def best_batch(case: Case, callback: Callback = lambda done, total, text: None, *, budget: float | None = None) -> Case:
    """Return the case with the batch size that gives the most images per second, among powers of two.

    The search ends when two batch sizes in a row are not faster by the factor ``GAIN``, one does not fit into the
    memory, or ``budget`` seconds are over. If none can be run, it is 1. ``callback`` gets a text on each batch.

    Raises:
        BenchError: if the budget is over before a batch was measured.
        SystemExit: after Ctrl-C or SIGTERM.
    """
    progress = _Progress(0, callback)
    best, best_rate, without_gain = replace(case, batch=1), 0.0, 0
    batch, turns = 1, 3
    refused: list[Row] = []
    failed = False
    ends = _deadline(time.monotonic(), budget)
    while without_gain < 2:
        trial = replace(case, batch=batch)
        progress(0, f"{trial}: getting ready")
        try:
            with temporary_folder() as folder, supervise(STOPPING, TO_SAVE) as supervisor:
                silent = (lambda parts, text: None), (lambda line: None)
                crew = Crew([trial], supervisor, folder, *silent, refused.append, turns + 1, ends)
                crew.prepare([trial])
                runners = list(crew.runners)
                if runners:
                    take_turns(crew, runners, range(turns), SEARCH * turns, 0, 1.0, None)
        except Ended as end:
            if end.number:
                raise SystemExit(128 + end.number) from None
            break
        if not runners or runners[0].failure:  # refused, or too large, or not ready in time
            failed = bool(refused or runners)
            break
        rate = runners[0].rate
        progress(0, f"{trial}: {format_rate(rate)} images/s")
        without_gain = 0 if rate > best_rate * GAIN else without_gain + 1
        if rate > best_rate:
            best, best_rate = trial, rate
        batch *= 2
    if not (best_rate or failed):
        raise BenchError(f"{case.way}: no batch was tried in {budget:.0f} s, its share of --budget; name a --batch")
    return best


@dataclass
class _Results:
    """Collects the rows of a bench, and makes the report of them.

    Attributes:
        rows: for each case, a row for each launch so far.
        launches: how many launches there shall be.
        budget: the seconds for the whole bench, or None.
        command: the command line.
        ceilings: for each precision, the most operations per second that were measured.
        finished: the numbers of the groups that are complete.
        stopped: what ended the bench early (:attr:`Ended.why`); empty if nothing did.
        machine: the environment of the report: the machine and its software.
    """

    rows: dict[Case, list[Row]]
    launches: int
    budget: float | None
    command: str
    ceilings: dict[str, float] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    stopped: str = ""
    machine: dict[str, str] = field(default_factory=lambda: environment() | hardware())

    @property
    def complete(self) -> int:
        """How many groups are complete, counted from the first up to one that is not."""
        return next(number for number in count() if number not in self.finished)

    def add(self, row: Row) -> None:
        """Add the row of one launch."""
        self.rows[row.case].append(row)

    def add_ceilings(self, ceilings: Ceilings) -> None:
        """Keep, for each precision, the larger of the ceiling (fastest matrix product) so far and the new one."""
        for (_, precision, _), flops in ceilings.items():
            if flops > self.ceilings.get(precision, 0.0):
                self.ceilings[precision] = flops

    def is_sound(self, case: Case) -> bool:
        """Return whether the case has a result in every launch so far."""
        return all(row.result for row in self.rows[case])

    def report(self, *, final: bool = False) -> BenchReport:
        """Return the report of the rows so far; ``final``: whether nothing more will be measured."""
        why = self.stopped or "budget"
        reason = f"{NOT_MEASURED}: {why}" if final else f"{NOT_MEASURED} yet"
        whole = all(len(rows) == self.launches or not self.is_sound(case) for case, rows in self.rows.items())
        rows = [merged(launched) if launched else Row(case=case, reason=reason) for case, launched in self.rows.items()]
        compared = [row for _, group in groupby(rows, key=lambda row: row.case.group) for row in with_ratios([*group])]
        partial = not final or not whole or bool(self.stopped)
        return BenchReport(
            command=self.command,
            partial=partial,
            ended="" if not partial else "not finished" if not final else self._ended(why),
            environment=self.machine,
            ceilings=dict(self.ceilings),
            rows=tuple(_with_share(row, self.ceilings) for row in compared),
        )

    def _ended(self, why: str) -> str:
        """Return in words why the report is partial; ``why`` is ``budget``, or these words already."""
        return f"the budget of {self.budget:g} s is spent" if why == "budget" else why


@dataclass
class _Progress:
    """Counts the parts done, and calls the callback. A launch of a case has one part to get ready and one per turn."""

    total: int
    callback: Callback
    done: int = 0

    def __call__(self, parts: int, text: str) -> None:
        self.done += parts
        self.callback(self.done, self.total, text)


def _with_share(row: Row, ceilings: dict[str, float]) -> Row:
    """Return the row with ``share`` in its result: its speed divided by the ceiling, the fastest matrix product."""
    case, result = row.case, row.result
    if result is None or case.precision not in ceilings:
        return row
    macs = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))[0].macs
    share = result.speed.median * macs * FLOPS[case.mode] / ceilings[case.precision]
    return replace(row, result=replace(result, share=share))
