"""Starts the processes of cases and gets them ready together; :mod:`resnet_xf.speed.bench.turns` times them."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from resnet_xf.backend.fast import COMPILED
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import WrongError, reference_name
from resnet_xf.speed.bench.memory import HEADROOM, check_memory, device_memory, host_memory
from resnet_xf.speed.bench.report import Row
from resnet_xf.speed.bench.runner import Runner, unmeasured
from resnet_xf.speed.bench.worker import (
    Answer,
    Built,
    Do,
    Ready,
    ReferencesWritten,
    Refused,
    Request,
    Worker,
    case_worker,
    start_referee,
)
from resnet_xf.support.environment import memory, processors
from resnet_xf.support.processes import Child, ProcessDied, Supervisor

LONGEST = 1800.0
"""Seconds without an answer after which a process is ended; compilers that try many kernels need minutes."""

NO_ANSWER = f"the process gave no answer in {LONGEST / 60:.0f} minutes"
"""What is said of such a process."""

LEAST, PREPARING = 3.0, 0.6
"""Under a budget, getting ready must leave ``LEAST`` seconds to time each case that is ready. But it may always take up
to the share ``PREPARING`` of the time left."""

Log = Callable[[str], object]


class Ended(Exception):  # noqa: N818 - no failure
    """Raised to end the bench early. ``why``: ``budget``, or ``stopped by SIGINT``. ``number``: the signal's, or 0."""

    def __init__(self, why: str, number: int = 0) -> None:
        super().__init__(why)
        self.why, self.number = why, number


@dataclass(eq=False)
class Crew:
    """All running processes of a bench: it starts them, exchanges messages with them, and ends them.

    A case is what one measurement runs, and a runner (:class:`Runner`) is a case with its process. A referee is a
    process that computes reference outputs.

    Attributes:
        cases: all cases of the bench. One process computes the reference outputs of all cases of a network.
        supervisor: starts and ends the processes.
        folder: the folder for temporary files and reference outputs.
        progress: called with the number of parts that are done since the last call, and what was done in words.
        log: called with a line when a case starts, is ready, is measured, or is refused.
        refuse: called with the row of a case that cannot be measured.
        parts: how many parts of the progress a case is.
        ends: when the time is up, in :func:`time.monotonic` seconds.
        goal: when the cases that are measured now should be done, so that later ones have their share of the time.
        runners: the cases whose processes run, in the order in which they were started.
        waited: cases whose processes were ended once because a GPU's memory was full, to be started again.
        capacity: bytes of a GPU's memory that all runners can hold together.
    """

    cases: Sequence[Case]
    supervisor: Supervisor
    folder: Path
    progress: Callable[[int, str], object]
    log: Log
    refuse: Callable[[Row], object]
    parts: int
    ends: float = inf
    runners: list[Runner] = field(default_factory=list)
    waited: set[Case] = field(default_factory=set)
    capacity: int = 0
    _referees: dict[Worker, list[Path]] = field(default_factory=dict)
    _refused: dict[Path, str] = field(default_factory=dict)
    _compilers: int = 0
    goal: float = field(init=False)

    def __post_init__(self) -> None:
        self.goal = self.ends

    # Messages

    def _next(self, until: float = inf) -> tuple[Child, Any] | None:
        """Wait for the next message of any process, and return the process and the message; None at ``until``.

        The message None says that the process has ended. ``until`` is in :func:`time.monotonic` seconds.

        Raises:
            Ended: if a signal stops the bench, or its own time is up.
        """
        event = None
        if not self.supervisor.stopping:
            seconds = max(0.0, min(until, self.ends) - time.monotonic())
            event = next(self.supervisor.events(seconds=seconds), None)
        if number := self.supervisor.request.signal:
            raise Ended(f"stopped by {signal.Signals(number).name}", number)
        if event is None and time.monotonic() >= self.ends:
            raise Ended("budget")
        return event

    def ask(self, runner: Runner, do: Do, answer: type[Answer], seconds: float = 0.0) -> Answer:
        """Send a request to a runner that is ready, and return the answer, a message of the class ``answer``.

        Raises:
            ProcessDied: if its process ends, or gives no answer in half an hour.
            Ended: as :meth:`_next`.
        """
        if runner.failure:
            raise runner.failure
        runner.worker.child.send(Request(do, seconds))
        while event := self._next(time.monotonic() + LONGEST):
            child, message = event
            if message is None and (dead := self._runner_of(child)):
                dead.failure = dead.worker.died()
            if runner.failure:
                raise runner.failure
            if child is runner.worker.child:
                assert isinstance(message, answer)
                return message
        runner.failure = ProcessDied(NO_ANSWER)
        self.end(runner)
        raise runner.failure

    def _runner_of(self, child: Child) -> Runner | None:
        return next((one for one in self.runners if one.worker.child is child), None)

    def end(self, runner: Runner) -> None:
        """End a runner's process and remove it from ``runners``."""
        runner.worker.end()
        if runner in self.runners:
            self.runners.remove(runner)

    # Getting ready

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        """Start processes for cases, many at a time, until all that fit into the memory are ready or refused.

        Under a budget it ends earlier, so that there is time to measure those that are ready.

        Returns:
            The cases that did not fit beside the others, and can be started later.

        Raises:
            Ended: as :meth:`_next`.
        """
        waiting, later, before = deque(cases), list[Case](), len(self.runners)
        compiled = sum(case.preset in COMPILED for case in cases)
        self._compilers = max(2, 2 * processors() // compiled) if compiled > 1 and cases[0].device != "cpu" else 0
        begin = time.monotonic()
        self._start_referees(cases)
        while True:
            preparing = [runner for runner in self.runners if runner.state != "ready"]
            while waiting and len(preparing) < processors():
                started = len(self.runners) - before
                if started >= (1 if before else 2) and not fits_another(self.runners, waiting[0]):
                    break
                if runner := self._start(waiting.popleft()):
                    preparing.append(runner)
            if not self.runners:
                self._end_referees()
            if not preparing and not self._referees:
                return later + list(waiting)
            if not self._let_start(preparing):
                continue
            ready = len(self.runners) - len(preparing)
            until = self.goal - min(LEAST * (ready + 1), (1 - PREPARING) * (self.goal - begin))
            event = self._next(min(until, time.monotonic() + LONGEST))
            if event:
                self._receive(*event, later)
                continue
            self._end_referees()
            spent = time.monotonic() >= until
            for runner in [runner for runner in self.runners if runner.state != "ready"]:
                if not spent:
                    self._fail(runner, ProcessDied(NO_ANSWER))
                    continue
                self.end(runner)
                seconds = time.monotonic() - runner.began
                self.log(f"{runner.case.group_title}: {runner.case}: not ready after {seconds:.0f} s, ended")
            if spent:
                return []

    def _start(self, case: Case) -> Runner | None:
        """Start a case's process and return its runner; None if its batch does not fit into the memory."""
        try:
            check_memory(case)
        except BenchError as error:
            self._drop(case, error)
            return None
        self.progress(0, f"{case}: getting ready")
        self.log(f"{case.group_title}: {case}: started")
        worker = case_worker(self.supervisor, case, self._reference(case), self.folder, self._compilers)
        self.runners.append(runner := Runner(case, worker, time.monotonic()))
        return runner

    def _drop(self, case: Case, error: Exception) -> None:
        """Count a case as done, and pass on its row: it cannot be measured, because of the error."""
        self.progress(self.parts, f"{case}: {error}")
        self.refuse(unmeasured(case, error))

    def _fail(self, runner: Runner, error: Exception) -> None:
        """End a runner's process, and log and pass on why its case cannot be measured."""
        self.end(runner)
        self.log(f"{runner.case.group_title}: {runner.case}: {error}")
        self._drop(runner.case, error)

    def _receive(self, child: Child, message: Any, later: list[Case]) -> None:
        """Act on a message of a process, or (None) on its end. Add cases that must wait for memory to ``later``."""
        runner = self._runner_of(child)
        referee = next((one for one in self._referees if one.child is child), None)
        if referee is not None:
            self._receive_references(referee, message)
        elif runner is None:
            return
        elif message is None:
            runner.failure = runner.worker.died()
            if runner.state != "ready":
                self._fail(runner, runner.failure)
        elif isinstance(message, Built):
            runner.state = "built"
            self.capacity = max(self.capacity, message.memory.free)
        elif isinstance(message, Ready):
            runner.state, runner.ready, runner.held = "ready", message, message.memory.held
            capacity = message.memory.free + sum(one.held for one in self.runners)
            busy = any(one.state == "starting" for one in self.runners)  # these have memory that is not in the sum
            self.capacity = max(capacity, self.capacity) if busy else capacity
            self.progress(1, f"{runner.case}: ready")
            took = time.monotonic() - runner.began
            self.log(f"{runner.case.group_title}: {runner.case}: ready after {took:.0f} s")
        elif isinstance(message, Refused):
            if message.full and not runner.alone:
                runner.state, runner.alone = "built", True
                return
            holders = any(one.state == "ready" for one in self.runners)
            if message.full and holders and runner.case not in self.waited:
                self.end(runner)
                self.waited.add(runner.case)
                later.append(runner.case)
            else:
                self._fail(runner, (WrongError if message.wrong else BenchError)(message.reason))

    def _let_start(self, preparing: Sequence[Runner]) -> bool:
        """Tell built runners to start if their reference outputs are there and the GPU's memory suffices.

        On a GPU, those that compile wait for those that do not, which need their memory at once and not for long.
        Return False, and end the runner, if one cannot be measured.
        """
        starting = [runner for runner in preparing if runner.state == "starting"]
        full = False
        for runner in preparing:
            compiles, path = runner.case.preset in COMPILED, self._reference(runner.case)
            if runner.state == "building":
                full |= runner.case.device != "cpu" and not compiles
            if runner.state != "built" or (full and compiles):
                continue
            if path in self._refused:
                self._fail(runner, BenchError(self._refused[path]))
                return False
            if not path.exists():
                if not self._is_computed(path):
                    self._start_referees([runner.case])
                if not self._is_computed(path):
                    self._fail(runner, BenchError("its reference outputs do not fit into the memory"))
                    return False
                continue
            if not self._fits_device(runner, starting):
                full = True
                continue
            runner.state = "starting"
            runner.worker.child.send(Request("start"))
            starting.append(runner)
        return True

    def _fits_device(self, runner: Runner, starting: list[Runner]) -> bool:
        """Return whether the GPU has memory for a runner to start beside those that are ``starting``; True on a CPU."""
        if runner.case.device == "cpu" or not starting:
            return True
        if any(other.alone for other in starting):
            return False
        together = [*starting, runner]
        needed = sum(device_memory(one.case, self._peak_like(one.case), at_once=runner.alone) for one in together)
        return needed + sum(one.held for one in self.runners) <= self.capacity

    def _peak_like(self, case: Case) -> int | None:
        """Return the largest GPU memory peak of running cases with equal network, mode, batch, precision; else None."""
        same = case.network, case.mode, case.batch, case.precision
        peaks = [
            runner.peak
            for runner in self.runners
            if (runner.case.network, runner.case.mode, runner.case.batch, runner.case.precision) == same
        ]
        return max(peaks, default=0) or None

    # Reference outputs

    def _reference(self, case: Case) -> Path:
        """Return the path of the file of the case's reference outputs."""
        return self.folder / f"{abs(hash(case.network)):x}-{reference_name(case)}.npy"

    def _start_referees(self, cases: Sequence[Case]) -> None:
        """Start one process for each network of ``cases`` whose reference outputs are missing; it computes all of them.

        If it fails on one backend, it tries the next one that has a case with the same reference outputs.
        """
        networks = {case.network for case in cases}
        begun = {path for paths in self._referees.values() for path in paths}
        missing: dict[Any, dict[tuple[Path, str], Case]] = {}
        for case in self.cases:
            path = self._reference(case)
            if case.network in networks and not path.exists() and path not in self._refused and path not in begun:
                with suppress(BenchError):
                    check_memory(case)
                    missing.setdefault(case.network, {}).setdefault((path, case.backend), case)
        for tasks in missing.values():
            worker = start_referee(self.supervisor, [(path, case) for (path, _), case in tasks.items()], self.folder)
            self._referees[worker] = [path for path, _ in tasks]

    def _is_computed(self, path: Path) -> bool:
        """Return whether a process is computing the reference outputs for this file."""
        return any(path in paths for paths in self._referees.values())

    def _end_referees(self) -> None:
        """End the processes that compute reference outputs; files that are not written stay missing."""
        for referee in self._referees:
            referee.end()
        self._referees.clear()

    def _receive_references(self, referee: Worker, message: Any) -> None:
        """Act on a message of a process that computes reference outputs, or (None) on its end.

        At its last message or its end, note which outputs could not be computed, and why.
        """
        if isinstance(message, ReferencesWritten) and not message.last:
            return  # those who wait for it can start
        paths = self._referees.pop(referee)
        if isinstance(message, ReferencesWritten):
            self._refused |= {Path(path): reason for path, reason in message.refused.items()}
        else:
            reason = f"its reference outputs: {referee.died()}"
            self._refused |= {path: reason for path in paths if not path.exists()}
        referee.end()


def fits_another(runners: Sequence[Runner], case: Case) -> bool:
    """Return whether a process for ``case`` probably fits into the host's free memory beside those of ``runners``.

    Return True if the free memory is not known.
    """
    available = memory()
    if available is None:
        return True
    starting = sum(host_memory(runner.case) for runner in runners if runner.ready is None)
    largest = max((runner.ready.peak.host for runner in runners if runner.ready), default=host_memory(case))
    return available.free - starting > HEADROOM * largest
