"""A measurement's process as its parent sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import mkstemp

import msgspec

from resnet_xf.bench.case import Case
from resnet_xf.bench.machine import variables
from resnet_xf.bench.worker import COMMAND, Answer
from resnet_xf.workers import PARENT, how_it_ended


class Gone(Exception):  # noqa: N818 - the process is, and not this program
    """The process has ended; the message says how, with its last words."""


class Child:
    """A process that measures a case, at work or waiting to be told.

    Args:
        case: what it measures.
        answers: the referee's, which it writes if the file is not there yet, and then ends.
        folder: for its files.
    """

    def __init__(self, case: Case, answers: Path, folder: Path) -> None:
        (handle, self.words), (other, file) = (mkstemp(dir=folder, suffix=end) for end in (".words", ".json"))
        with open(other, "w", encoding="utf-8") as written:
            written.write(case.to_complete_json())
        own = {PARENT: str(os.getpid()), **variables(case.backend, case.preset, case.threads)}
        self.process = Popen(
            [*COMMAND, file, str(answers)],
            stdin=PIPE,
            stdout=PIPE,
            stderr=handle,
            env={**os.environ, **own},
            process_group=0,  # Ctrl-C reaches the parent alone
        )
        os.close(handle)

    def ask(self, line: str) -> Answer:
        """Tell it something and wait for its answer; raises Gone if there is none."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        return self.read()

    def read(self) -> Answer:
        """Its next answer; raises Gone if there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            answer: Answer = msgspec.json.decode(line, type=Answer)
            return answer
        code = self.process.wait()
        said = [text for text in Path(self.words).read_text(errors="replace").splitlines() if text.strip()]
        last = f"; its last words: {said[-1].strip()}" if said else ""
        memory = " (it may have been too large for the memory)" if code == -9 else ""
        raise Gone(f"the process {how_it_ended(code)}{memory}{last}")

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
