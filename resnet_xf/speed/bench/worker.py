"""The process that measures one case: its messages, and both ends of them.

It builds, checks and warms up the network, and sends :class:`Ready` or :class:`Refused`. Then it answers each request:
a number of seconds with a :class:`Round`, ``memory`` with :class:`PeakMemory`, ``ceiling`` with :class:`Ceiling`.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal, TypeAlias, TypeVar

import msgspec
import numpy as np

from resnet_xf.backend.fast import COMPILED
from resnet_xf.backend.registry import BUILT_IN
from resnet_xf.errors import BenchError, ResNetXFError, one_line
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Engine, Round, WrongError, reference_outputs
from resnet_xf.speed.bench.report import Prepared
from resnet_xf.support.environment import peak_memory
from resnet_xf.support.files import atomic
from resnet_xf.support.parent import connect
from resnet_xf.support.processes import Child, ProcessDied

COMMAND = (sys.executable, "-c", "from resnet_xf.speed.bench.worker import main; main()")
"""Starts the process. The case follows as JSON, and the path of the reference outputs."""

LONGEST = 1800.0
"""Seconds without an answer after which a process is given up; compilers that try many kernels need minutes."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A message: the network is warm and its outputs are right; ``memory`` is the host's peak so far, in bytes."""

    prepared: Prepared
    memory: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A message: why there is nothing to measure; ``wrong`` if the network computes wrong results."""

    reason: str
    wrong: bool = False


class PeakMemory(msgspec.Struct, frozen=True, tag=True):
    """A message: the peak of the host's and of the device's memory in bytes; None on a CPU."""

    host: int
    device: int | None


class Ceiling(msgspec.Struct, frozen=True, tag=True):
    """A message: operations per second of a large matrix product; None if the framework has none in this precision."""

    flops: float | None


class ReferenceWritten(msgspec.Struct, frozen=True, tag=True):
    """A message: the reference outputs are in their file, and the process ends."""


Answer = TypeVar("Answer", Ready, Round, PeakMemory, Ceiling, ReferenceWritten)
Message: TypeAlias = Ready | Round | Refused | PeakMemory | Ceiling | ReferenceWritten
Request: TypeAlias = float | Literal["memory", "ceiling"]


class Worker:
    """The process that measures a case, as its parent sees it.

    Args:
        case: what it measures.
        reference: the file of the reference outputs. If it does not exist, the process writes it and ends.
        folder: a folder for temporary files.

    Attributes:
        settings: the environment variables that make the case's backend fast, each as ``NAME=value``.
    """

    def __init__(self, case: Case, reference: Path, folder: Path) -> None:
        text = case.to_complete_json()
        # A folder for temporary files of its own, where no compiler finds what another case has left.
        temporary = folder / sha256(text.encode()).hexdigest()[:16]
        temporary.mkdir(exist_ok=True)
        special = backend_variables(case.backend, case.preset)
        self.settings = tuple(f"{name}={value}" for name, value in sorted(special.items()))
        threads = str(case.threads)
        variables = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **special}
        with NamedTemporaryFile(dir=folder, suffix=".output", delete=False) as output:
            self._output = Path(output.name)
            command, file = [*COMMAND, text, str(reference)], output.fileno()
            self._child = Child(str(case), command, variables, Message, stdout=file, stderr=file, folder=folder)
        self.end = self._child.end

    def ask(self, request: Request, answer: type[Answer]) -> Answer:
        """Send a request, and return the answer; raises as :meth:`receive`."""
        self._child.send(request)
        return self.receive(answer)

    def receive(self, answer: type[Answer]) -> Answer:
        """Wait for the next message, which is of this type, and return it.

        Raises:
            BenchError: if the case cannot be measured; a WrongError if it computes wrong results.
            ProcessDied: if the process ends, or sends nothing in half an hour; with the last line of its output.
        """
        try:
            message: Message = self._child.receive(LONGEST)
        except TimeoutError:
            self.end()
            raise ProcessDied(f"the process gave no answer in {LONGEST / 60:.0f} minutes") from None
        except ProcessDied as died:
            lines = [line for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
            last = f"; its last words: {lines[-1].strip()}" if lines else ""
            hint = " (it may have been too large for the memory)" if self._child.exit_code == -9 else ""
            raise ProcessDied(f"the process {died}{hint}{last}") from None
        if isinstance(message, Refused):
            raise (WrongError if message.wrong else BenchError)(message.reason)
        assert isinstance(message, answer)
        return message


def backend_variables(backend: str, preset: str) -> dict[str, str]:
    """The environment variables that make a backend fast, for the presets that compile; none for others."""
    return dict(BUILT_IN[backend].variables) if preset in COMPILED and backend in BUILT_IN else {}


def main() -> None:
    """Measure the case that the command line holds, as the parent asks; what the started process does."""
    parent = connect()
    assert parent is not None
    case, reference = Case.from_json(sys.argv[1]), Path(sys.argv[2])
    try:
        if not reference.exists():
            with atomic(reference) as temporary, open(temporary, "wb") as file:
                np.save(file, reference_outputs(case), allow_pickle=False)
            parent.send(ReferenceWritten())
            return
        engine = Engine(case, np.load(reference, allow_pickle=False))
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, MemoryError):
            reason = f"not enough memory: {reason}"
        elif not isinstance(error, ResNetXFError):
            if not isinstance(error, RuntimeError) or "memory" not in reason:
                raise
            reason = f"not enough memory: {reason}; choose a smaller batch"  # a framework's own error
        parent.send(Refused(reason, wrong=isinstance(error, WrongError)))
        return
    parent.send(Ready(engine.prepared, peak_memory()))
    for request in parent.messages(Request):
        match request:
            case "memory":
                parent.send(PeakMemory(peak_memory(), engine.bench.peak_memory(engine.device)))
            case "ceiling":
                parent.send(Ceiling(engine.ceiling()))
            case seconds:
                parent.send(engine.run(engine.steps_in(seconds)))
