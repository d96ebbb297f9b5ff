"""The process of one measurement: it says when it is ready, and then runs as often as it is told to."""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from resnet_xf.backend.workers import end_with_parent
from resnet_xf.errors import ResNetXFError, one_line
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.engine import Engine, Referee, Round, WrongError
from resnet_xf.support.files import atomic

COMMAND = (sys.executable, "-c", "from resnet_xf.speed.bench.worker import main; main()")
"""What a measurement's process is; the file of its :class:`Case` follows, and that of the referee's answers."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The network runs, and gives what the referee says.

    Attributes:
        version: the framework's.
        steps: what was done to make it fast.
        build, first: seconds until the native network was there, and from there to its first result.
        warm_up: seconds after that until it was steady.
        error: of the outputs against float64, relative to the largest.
        agreement: the share of images whose largest output is the referee's.
        memory: the process's peak so far, in bytes.
        threads: how many the framework says it has.
    """

    version: str
    steps: tuple[str, ...]
    build: float
    first: float
    warm_up: float
    error: float
    agreement: float
    memory: int
    threads: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why there is nothing to measure; ``wrong`` if the network gives false results, and is not merely lacking."""

    reason: str
    wrong: bool = False


class Used(msgspec.Struct, frozen=True, tag=True):
    """The last word: peaks of the host's and of the device's memory in bytes."""

    host: int
    device: int | None


class Ceiling(msgspec.Struct, frozen=True, tag=True):
    """Flops a second of a large product of matrices; None where the framework has none in that precision."""

    flops: float | None


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The referee has written its answers."""


Answer: TypeAlias = Ready | Round | Refused | Used | Ceiling | Answered


def main() -> None:
    """Measure the case whose file the command line names, as the parent's lines on stdin ask.

    A line is a number of seconds, ``used``, or ``ceiling``. An answer is a line of JSON.
    """
    end_with_parent()
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a framework prints is not for the parent

    def tell(answer: msgspec.Struct) -> None:
        told.write(msgspec.json.encode(answer) + b"\n")

    case, answers = Case.read(sys.argv[1]), Path(sys.argv[2])
    try:
        if not answers.exists():
            with atomic(answers) as temporary, open(temporary, "wb") as file:
                np.save(file, Referee(case).outputs, allow_pickle=False)
            tell(Answered())
            return
        engine = Engine(case, np.load(answers, allow_pickle=False))
    except MemoryError as error:
        tell(Refused(f"not enough memory: {one_line(error)}"))
        return
    except ResNetXFError as error:
        tell(Refused(one_line(error), wrong=isinstance(error, WrongError)))
        return
    except RuntimeError as error:  # a framework's own, where it is not turned into a MemoryError
        if "memory" not in str(error):
            raise
        tell(Refused(f"not enough memory: {one_line(error)}; choose a smaller batch"))
        return
    tell(
        Ready(
            version=engine.backend.version(),
            steps=engine.steps,
            build=engine.build,
            first=engine.first,
            warm_up=engine.warm_up,
            error=engine.error,
            agreement=engine.agreement,
            memory=_peak(),
            threads=engine.bench.threads(),
        )
    )
    for line in map(str.strip, sys.stdin):
        match line:
            case "used":
                tell(Used(_peak(), engine.bench.peak_memory(engine.device)))
            case "ceiling":
                tell(Ceiling(engine.ceiling()))
            case seconds:
                tell(engine.run(engine.steps_in(float(seconds))))


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    with suppress(OSError):  # Linux's getrusage would begin with the parent's
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
