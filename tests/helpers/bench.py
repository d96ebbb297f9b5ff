"""Cases of a tiny network, and how they are measured quickly: by processes, or in this one."""

from __future__ import annotations

from multiprocessing.connection import Pipe
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from helpers.runs import TINY
from resnet_xf.speed.bench import crew as crew_module
from resnet_xf.speed.bench import engine as engine_module
from resnet_xf.speed.bench import worker as worker_module
from resnet_xf.speed.bench.case import Case
from resnet_xf.support.processes import Supervisor

CASE = Case(spec=TINY, backend="torch", image_size=(12, 12), threads=1, batch=4, preset="eager")
SECONDS = 0.05
BRIEF = {"ROUND": 0.01, "WARM_UP": 0.1, "MATRIX_SIZE": {"cpu": 256}}
"""Constants of the engine: no test needs a steady speed or a true ceiling."""

QUICK = f"import resnet_xf.speed.bench.engine as engine\nvars(engine).update({BRIEF!r})\n"
"""What a process runs before it measures."""


def case(**fields) -> Case:
    return replace(CASE, **fields)


def patched(monkeypatch, **patches: str) -> None:
    """Run Python first in the processes that measure cases whose JSON holds such a value: a preset, a backend."""
    lines = ["import sys, pathlib", "case = sys.argv[1]"]
    for word, patch in patches.items():
        lines += [f"if ':\"{word}\"' in case:", *(f"    {line}" for line in patch.splitlines())]
    *python, code = worker_module.COMMAND
    monkeypatch.setattr(worker_module, "COMMAND", (*python, "\n".join([*lines, code])))


class Here:
    """What :func:`resnet_xf.speed.bench.worker.case_worker` starts, without a process: it does at once what it is sent.

    It is its own child, as the crew and its supervisor see it.
    """

    def __init__(self, supervisor: Supervisor, case: Case, reference: Path, folder: Path, compilers: int) -> None:
        self.child, self.name, self.reference = self, str(case), reference
        self.exit_code: int | None = None
        pipe, self._answers = Pipe(duplex=False)
        self.waitables = [pipe]
        supervisor.children.append(self)  # type: ignore[arg-type]
        self._engine, message = worker_module.build(case)
        self._answer(message)

    def _answer(self, message: worker_module.Message) -> None:
        self._answers.send_bytes(msgspec.json.encode(message))

    def send(self, request: worker_module.Request) -> None:
        assert self._engine is not None
        self._answer(worker_module.answer(self._engine, request, self.reference))

    def receive(self, seconds: float | None = None) -> worker_module.Message:
        return msgspec.json.decode(self.waitables[0].recv_bytes(), type=worker_module.Message)

    def end(self) -> None:
        self.exit_code, self._engine = 0, None
        for connection in (self._answers, *self.waitables):
            connection.close()
        self.waitables.clear()


def in_this_process(monkeypatch) -> None:
    """Measure every case in this process, and compute its reference outputs here."""
    for name, value in BRIEF.items():
        monkeypatch.setattr(engine_module, name, value)
    references_here(monkeypatch)
    monkeypatch.setattr(crew_module, "case_worker", Here)


def references_here(monkeypatch) -> None:
    """Compute the reference outputs in this process."""

    def write(crew: crew_module.Crew, cases: list[Case]) -> None:
        for one in cases:
            if not crew._reference(one).exists():
                np.save(crew._reference(one), engine_module.reference_outputs(one))

    monkeypatch.setattr(crew_module.Crew, "_start_referees", write)
