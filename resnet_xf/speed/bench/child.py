"""A measurement's process as its parent sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from select import select
from signal import SIGKILL
from subprocess import PIPE, Popen
from tempfile import mkstemp

import msgspec

from resnet_xf.backend.workers import PARENT, how_it_ended
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.machine import variables
from resnet_xf.speed.bench.worker import COMMAND, Answer

LONGEST = 1800.0
"""Seconds without an answer after which a process is given up; compilers that try many kernels need minutes."""


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
        text = case.to_complete_json()
        with open(other, "w", encoding="utf-8") as written:
            written.write(text)
        # Its own folder for temporary files, where no compiler finds what another case has left.
        temporary = folder / sha256(text.encode()).hexdigest()[:16]
        temporary.mkdir(exist_ok=True)
        own = {PARENT: str(os.getpid()), "TMPDIR": str(temporary)}
        special = variables(case.backend, case.preset)
        own |= {"OMP_NUM_THREADS": str(case.threads), "MKL_NUM_THREADS": str(case.threads), **special}
        self.settings = tuple(f"{name}={value}" for name, value in sorted(special.items()))
        """Of its environment, what makes its backend fast."""
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
        if not select([self.process.stdout], [], [], LONGEST)[0]:
            raise Gone(f"the process gave no answer in {LONGEST / 60:.0f} minutes")
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
        """End it and the processes that it has started, whatever they do."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
