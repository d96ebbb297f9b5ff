"""Times processes that are ready: they warm up, and then run in turns, one at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.crew import LONGEST, Crew
from resnet_xf.speed.bench.engine import Round
from resnet_xf.speed.bench.report import Row
from resnet_xf.speed.bench.runner import Runner
from resnet_xf.speed.bench.statistics import format_rate
from resnet_xf.speed.bench.worker import Ceiling, PeakMemory, Released, Warm
from resnet_xf.support.processes import ProcessDied

WARMING, TURNING = 0.25, 0.8
"""Under a budget, the shares of a case's time in which it may warm up, and then run in turns."""

FILL = 0.95
"""The largest share of a GPU's memory that is used; some cases grow a little in their turns."""

Ceilings = dict[tuple[str, str, str], float]
"""Operations per second of a large matrix product, by (device, precision, backend); 0 if it cannot be computed."""


def take_turns(
    crew: Crew, runners: Sequence[Runner], turns: range, seconds: float, launch: int, share: float, kept: Runner | None
) -> None:
    """Warm up runners (cases with their processes), then time them in turns. Store the results in their ``rounds``.

    Args:
        crew: all processes of the bench.
        runners: the runners of one group, to be compared with each other.
        turns: the numbers of the turns. In a turn, each runner is timed once, one after the other.
        seconds: how long each runs in all, unless the budget leaves less.
        launch: the number of the launch (start of all processes), a seed for the order in the turns.
        share: which share of the time that is left these runners may use, 0 to 1.
        kept: the runner among them that took part in earlier turns, so it is warm and counted already; or None.

    Raises:
        Ended: if a signal stops the bench, or its time is up.
    """
    until = time.monotonic() + (crew.goal - time.monotonic()) * share

    def left(part: float) -> float:
        """Return the seconds for each runner in ``part`` (0 to 1) of the time that is left."""
        return part * max(0.0, until - time.monotonic()) / len(runners)

    longest = min(LONGEST, left(WARMING))
    for runner in runners:
        _make_room(crew, runner)
        with suppress(ProcessDied):
            if runner is not kept:
                runner.warm_up = crew.ask(runner, "warm up", Warm, longest).seconds
                runner.held = runner.peak
    if (possible := left(TURNING) * len(turns) / (len(turns) + 1)) < seconds:
        crew.log(f"the budget leaves {possible:.1f} s for each case in place of {seconds:g}")
        seconds = possible
    for runner in runners:  # each has waited while the others warmed up, and is not warm any more
        _run(crew, runner, seconds / len(turns))
    for turn in turns:
        # The order changes, because what ran before leaves its caches and clock rates to the next.
        for runner in Random(f"{launch} {turn}").sample(runners, len(runners)):
            if done := _run(crew, runner, seconds / len(turns)):
                runner.rounds[turn] = done
            if runner is not kept:
                crew.progress(1, f"{runner.case}: {format_rate(runner.rate)} images/s")
    for runner in runners:
        if runner is not kept:
            what = str(runner.failure) if runner.failure else f"measured, {format_rate(runner.rate)} images/s"
            crew.log(f"{runner.case.group_title}: {runner.case}: {what}")


def _run(crew: Crew, runner: Runner, seconds: float) -> Round | None:
    """Let a runner's process run for about ``seconds`` seconds. Return what it measured; None if it dies."""
    with suppress(ProcessDied):
        _make_room(crew, runner)
        done = crew.ask(runner, "run", Round, seconds)
        runner.held = runner.peak
        return done
    return None


def _make_room(crew: Crew, runner: Runner) -> None:
    """Until ``runner`` fits into the GPU's memory, make other processes give cached memory back, the largest first."""
    others = sorted((one for one in crew.runners if one is not runner), key=lambda one: one.held - one.kept)
    while others and runner.peak + sum(one.held for one in crew.runners if one is not runner) > FILL * crew.capacity:
        other = others.pop()
        if other.held > other.kept:
            with suppress(ProcessDied):
                other.held = crew.ask(other, "release", Released).held


def too_many(crew: Crew, runners: Sequence[Runner]) -> list[Case]:
    """If a GPU's memory is too small for all runners, end some of them, the largest first; return their cases.

    The first runner stays, and so does a case that was ended for this reason before.
    """
    ended = []
    for runner in sorted(runners[1:], key=lambda one: one.held, reverse=True):
        kept = sum(one.held for one in crew.runners)
        if kept + max(one.peak - one.held for one in runners) <= FILL * crew.capacity or runner.case in crew.waited:
            continue
        crew.waited.add(runner.case)
        crew.end(runner)
        crew.progress(-1, f"{runner.case}: waits, as the memory is full")
        ended.append(runner.case)
    return ended


def finish(crew: Crew, runner: Runner, ceilings: Ceilings) -> Row:
    """End a runner's process, and return its row of the report, without a result if the process died.

    Before that, measure the ceiling (fastest matrix product) and add it to ``ceilings``, unless it is there for this
    device, precision and backend.
    """
    peak = None
    try:
        peak = crew.ask(runner, "memory", PeakMemory)
        key = runner.case.device, runner.case.precision, runner.case.backend
        if key not in ceilings:
            ceilings[key] = crew.ask(runner, "ceiling", Ceiling).flops or 0.0
    except ProcessDied as died:
        if peak is None:
            runner.failure = died
        else:  # only the ceiling is missing
            runner.failure = None
    row = runner.row(peak)
    crew.end(runner)
    return row


def unfinished(crew: Crew) -> list[Row]:
    """Return the rows of the runners that were stopped in the middle of their turns, or whose process died."""
    return [runner.row() for runner in crew.runners if runner.rounds or runner.failure]
