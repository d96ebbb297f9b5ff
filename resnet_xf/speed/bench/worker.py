"""The process that measures one case: what it does, its messages, and how its parent starts it.

It builds the network and sends :class:`Built`. At the request ``start`` it compiles, checks, and sends :class:`Ready`.
Each request has one answer, as :data:`Do` lists them. :class:`Refused` may come in place of the first two messages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal, TypeAlias, TypeVar

import msgspec
import numpy as np

from resnet_xf.backend.fast import COMPILED
from resnet_xf.backend.registry import BUILT_IN
from resnet_xf.errors import ResNetXFError, one_line
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Engine, Round, WrongError, reference_outputs
from resnet_xf.speed.bench.report import Prepared
from resnet_xf.support.environment import peak_memory
from resnet_xf.support.files import atomic
from resnet_xf.support.parent import connect
from resnet_xf.support.processes import Child, ProcessDied, Supervisor

COMMAND = (sys.executable, "-c", "from resnet_xf.speed.bench.worker import main; main()")
"""Command that starts the process. The case follows as JSON, then the path of the file of reference outputs."""

REFEREE = (sys.executable, "-c", "from resnet_xf.speed.bench.worker import referee; referee()")
"""Command that starts a process that computes reference outputs. For each, the path of its file and a case as JSON
follow."""

Do: TypeAlias = Literal["start", "warm up", "run", "release", "memory", "ceiling"]
"""The requests to a process. The answer to ``start`` is :class:`Ready`, to ``warm up`` :class:`Warm`, to ``run``
:class:`Round`, to ``release`` :class:`Released`, to ``memory`` :class:`PeakMemory`, to ``ceiling`` :class:`Ceiling`."""


class Request(msgspec.Struct, frozen=True):
    """A message to the process: what to do. ``seconds``: how long to run, or how long to warm up at most."""

    do: Do
    seconds: float = 0.0


class Released(msgspec.Struct, frozen=True, tag=True):
    """A message: bytes of the GPU's memory that this process keeps (``held``), and that are ``free``; 0 on a CPU."""

    held: int = 0
    free: int = 0


class Built(msgspec.Struct, frozen=True, tag=True):
    """A message: the network is built, on the CPU. ``memory`` is the GPU's at this moment."""

    memory: Released


class PeakMemory(msgspec.Struct, frozen=True, tag=True):
    """A message: the most memory that the process had, in bytes, on the host and on the device (None on a CPU)."""

    host: int
    device: int | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A message: the network has run its first batch and its outputs are right.

    Attributes:
        prepared: how it was made ready, and its errors.
        peak: the most memory that the process had so far.
        memory: the GPU's memory now.
    """

    prepared: Prepared
    peak: PeakMemory
    memory: Released


class Warm(msgspec.Struct, frozen=True, tag=True):
    """A message: the network is warm. ``seconds``: how long this took."""

    seconds: float


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A message: why there is nothing to measure.

    Attributes:
        reason: why, in one line.
        wrong: whether the network computes wrong results.
        full: whether a GPU's memory is full. Then the process waits, and can be asked to start again.
    """

    reason: str
    wrong: bool = False
    full: bool = False


class Ceiling(msgspec.Struct, frozen=True, tag=True):
    """A message: operations per second of a large matrix product; None if the framework has none in this precision."""

    flops: float | None


class ReferencesWritten(msgspec.Struct, frozen=True, tag=True):
    """A message: another file of reference outputs is written, or (``last``) all are, and the process ends.

    ``refused``: for the path of each file that could not be written, the reason.
    """

    last: bool
    refused: dict[str, str]


Message: TypeAlias = Built | Ready | Warm | Round | Released | Refused | PeakMemory | Ceiling | ReferencesWritten
Answer = TypeVar("Answer", bound=Message)


class Worker:
    """A process that measures a case or computes references, as its parent sees it.

    Args:
        supervisor: starts and ends it.
        name: its name in messages to the user.
        command: the program and its arguments.
        threads: how many threads it may use.
        variables: environment variables.
        folder: a folder for its temporary files, and for its output.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        command: Sequence[str],
        threads: int,
        variables: Mapping[str, str],
        folder: Path,
    ) -> None:
        # A folder for temporary files of its own, where no compiler finds what another case has left.
        temporary = folder / sha256("\n".join(command).encode()).hexdigest()[:16]
        temporary.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=folder, suffix=".output", delete=False) as output:
            self._output, file = Path(output.name), output.fileno()
            most = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
            environment = {"TMPDIR": str(temporary), **most, **variables}
            self.child: Child = supervisor.start(
                name, command, environment, Message, stdout=file, stderr=file, folder=folder
            )
        self.end = self.child.end

    def died(self) -> ProcessDied:
        """Return the error for a process that has ended, with the last line of its output."""
        lines = [line for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
        last = f"; its last words: {lines[-1].strip()}" if lines else ""
        hint = " (it may have been too large for the memory)" if self.child.exit_code == -9 else ""
        return ProcessDied(f"the process {self.child.ending}{hint}{last}")


def case_worker(supervisor: Supervisor, case: Case, reference: Path, folder: Path, compilers: int) -> Worker:
    """Start the process of a case; ``reference`` is the file with the outputs that it should have.

    ``compilers``: how many processes its compiler may use, or 0 for its own choice.
    """
    variables = backend_variables(case.backend, case.preset)
    name = BUILT_IN[case.backend].compilers if case.backend in BUILT_IN else ""
    if compilers and name and name not in os.environ:
        variables[name] = str(compilers)
    command = [*COMMAND, case.to_complete_json(), str(reference)]
    return Worker(supervisor, str(case), command, case.threads, variables, folder)


def backend_variables(backend: str, preset: str) -> dict[str, str]:
    """Return the environment variables that make a backend fast, if the preset compiles; else none."""
    return dict(BUILT_IN[backend].variables) if preset in COMPILED and backend in BUILT_IN else {}


def main() -> None:
    """Entry point of a case's process: build the case on the command line, then answer the parent's requests."""
    parent = connect()
    assert parent is not None
    engine, first = build(Case.from_json(sys.argv[1]))
    parent.send(first)
    if engine is None:
        return
    for request in parent.messages(Request):
        parent.send(message := answer(engine, request, Path(sys.argv[2])))
        if isinstance(message, Refused) and not message.full:
            return


def build(case: Case) -> tuple[Engine | None, Built | Refused]:
    """Build a case. Return its engine and the first message; the engine is None if the case is refused."""
    try:
        engine = Engine(case)
        return engine, Built(_release(engine))
    except Exception as error:
        return None, msgspec.structs.replace(_refusal(error, case), full=False)  # it cannot be asked again


def answer(engine: Engine, request: Request, reference: Path) -> Message:
    """Do what a request asks, and return the answer. ``reference``: the file of reference outputs."""
    try:
        return _done(engine, request, reference)
    except Exception as error:
        if request.do != "start":
            raise
        refused = _refusal(error, engine.case)
    if refused.full:
        engine.release()  # only now: the exception has held the tensors
    return refused


def _done(engine: Engine, request: Request, reference: Path) -> Message:
    """Do what a request asks, and return the answer that :data:`Do` lists; raise what is wrong."""
    match request.do:
        case "start":
            prepared = engine.start(np.load(reference, allow_pickle=False))
            return Ready(prepared, _peak(engine), _release(engine))
        case "warm up":
            return Warm(engine.warm_up(request.seconds))
        case "run":
            return engine.run(engine.steps_in(request.seconds))
        case "release":
            return _release(engine)
        case "memory":
            return _peak(engine)
        case "ceiling":
            return Ceiling(engine.ceiling())


def _peak(engine: Engine) -> PeakMemory:
    return PeakMemory(peak_memory(), engine.bench.peak_memory(engine.device))


def _release(engine: Engine) -> Released:
    return Released(*(engine.release() or ()))


def _refusal(error: Exception, case: Case) -> Refused:
    """Return the message that says why a case cannot be measured, from the error.

    Errors that are not this package's and not about memory are raised again.
    """
    reason, memory = one_line(error), isinstance(error, MemoryError)
    if memory:
        reason = f"not enough memory: {reason}"
    elif case.device != "cpu" and "out of memory" in reason:  # as in the middle of a compilation
        memory = True
    elif not isinstance(error, ResNetXFError):
        memory = isinstance(error, RuntimeError) and "memory" in reason  # a framework's own error
        if not memory:
            raise error
        reason = f"not enough memory: {reason}; choose a smaller batch"
    return Refused(reason, wrong=isinstance(error, WrongError), full=memory and case.device != "cpu")


def start_referee(supervisor: Supervisor, tasks: Sequence[tuple[Path, Case]], folder: Path) -> Worker:
    """Start a process that computes the reference outputs of cases of one network.

    ``tasks``: for each, the file to write and the case.
    """
    first = tasks[0][1]
    arguments = [text for path, case in tasks for text in (str(path), case.to_complete_json())]
    name = f"{first.spec.name} in float64"
    return Worker(supervisor, name, [*REFEREE, *arguments], first.threads, {}, folder)


def referee() -> None:
    """Entry point of the process that computes reference outputs: write the files that the command line names."""
    parent = connect()
    assert parent is not None
    refused: dict[str, str] = {}
    for path, text in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        if Path(path).exists():  # another backend has computed it
            continue
        try:
            outputs = reference_outputs(Case.from_json(text))
        except (ResNetXFError, MemoryError, RuntimeError) as error:
            refused.setdefault(path, one_line(error))
            continue
        refused.pop(path, None)
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.save(file, outputs, allow_pickle=False)
        parent.send(ReferencesWritten(False, {}))
    parent.send(ReferencesWritten(True, refused))
