"""Several workers on this machine: starts each backend's processes, and ends them all when one dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from resnet_xf.errors import TrainingError, TrainingStopped
from resnet_xf.support.signals import asked_to_stop

PARENT, COMPLAINT = "RESNET_XF_PARENT", "RESNET_XF_COMPLAINT"
"""Where a worker finds the number of the process that started it, and the file for what it cannot go on with."""

TO_SAVE, GRACE = 60.0, 5.0
"""Seconds in which the workers must save and end after a signal, and in which the others must end once one has."""

LOOK = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, eq=False)
class Role:
    """One process: what it is called, its environment, and whether it trains or only serves the others."""

    name: str
    environment: dict[str, str]
    trains: bool = True


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(workers: int) -> str:
    """How many threads each of several workers may take for itself."""
    return str(max(1, processors() // workers))


def run_together(roles: Sequence[Role], arguments: Sequence[str]) -> str:
    """Run ``resnet-xf`` with those arguments in every role, until all that train have ended.

    Ctrl-C and SIGTERM are passed on; the workers then stop at the same step, and the first writes a checkpoint.

    Returns:
        What went wrong, in a line; nothing if all went well.

    Raises:
        TrainingStopped: if the run was stopped by a signal, with what the first worker said.
        TrainingError: on Windows, whose processes cannot be asked to stop.
    """
    if sys.platform == "win32":
        raise TrainingError("several workers cannot be started on Windows; use Linux, or a container of it")
    command = [sys.executable, "-m", "resnet_xf", *arguments]
    with TemporaryDirectory() as folder, asked_to_stop(heeded=True, tell=True) as wish:
        complaints = {role: Path(folder) / role.name for role in roles}
        started = {
            role: subprocess.Popen(
                command,
                env={**os.environ, PARENT: str(os.getpid()), COMPLAINT: str(complaints[role]), **role.environment},
                start_new_session=True,
            )
            for role in roles
        }
        training = [process for role, process in started.items() if role.trains]
        try:
            while not wish.signal and any(process.poll() is None for process in training):
                if any(process.poll() for process in started.values()):
                    break
                time.sleep(LOOK)
            if wish.signal:
                for process in training:
                    process.send_signal(wish.signal)
                _wait(TO_SAVE, lambda: all(process.poll() is not None for process in training))
            _wait(GRACE, lambda: all(process.poll() is not None for process in started.values()))
            ends = {role: process.poll() for role, process in started.items()}
        finally:
            for process in started.values():
                process.kill()
                process.wait()
        said = {role: path.read_text() for role, path in complaints.items() if path.exists()}
    whole = "; ".join(dict.fromkeys(text for text in said.values() if text))
    if wish.signal:
        raise TrainingStopped(whole or "stopped before the first step", wish.signal)
    dead = [f"{role.name} {how_it_ended(code)}" for role, code in ends.items() if code and role not in said]
    return "; ".join([*dead, *([whole] if whole else [])])


def complain(text: str) -> None:
    """Say what a process cannot go on with: to the one that started it, or else on stderr."""
    if COMPLAINT in os.environ:
        Path(os.environ[COMPLAINT]).write_text(text)
    elif text:
        print(f"resnet-xf: {text}", file=sys.stderr)  # noqa: T201


def _wait(seconds: float, done: Callable[[], bool]) -> None:
    """Wait until it is done, but no longer than that."""
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(LOOK)


def how_it_ended(code: int) -> str:
    """What a process's exit code tells, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def end_with_parent() -> None:
    """Where another process started this one, end when that one is gone, however it went."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
