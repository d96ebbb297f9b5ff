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

from resnet_xf.errors import TrainingError, TrainingStopped
from resnet_xf.signals import asked_to_stop

PARENT = "RESNET_XF_PARENT"
"""Where a process finds the number of the one that started it and without which it is to end."""

TO_SAVE, GRACE = 60.0, 5.0
"""Seconds in which one worker must save and end after a signal, and in which the others must end once one has."""

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


def threads_each(workers: int) -> str:
    """How many threads each of several workers may take for itself."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(max(1, processors // workers))


def run_together(roles: Sequence[Role], arguments: Sequence[str], resumed_by: str) -> None:
    """Run ``resnet-xf`` with those arguments in every role, until all that train have ended.

    Ctrl-C and SIGTERM are passed on; the first worker then writes its checkpoint and ends.

    Args:
        roles: of the processes.
        arguments: of each.
        resumed_by: the command by which the run goes on.

    Raises:
        TrainingError: if a process dies, after the others were ended.
        TrainingStopped: if the run was stopped by a signal.
    """
    command = [sys.executable, "-m", "resnet_xf", *arguments]
    started = {
        role: subprocess.Popen(
            command, env={**os.environ, PARENT: str(os.getpid()), **role.environment}, start_new_session=True
        )
        for role in roles
    }
    try:
        with asked_to_stop(heeded=True) as wish:
            training = [process for role, process in started.items() if role.trains]
            while not wish.signal and any(process.poll() is None for process in training):
                if any(process.poll() for process in started.values()):
                    break
                time.sleep(LOOK)
            if wish.signal:
                for process in training:
                    process.send_signal(wish.signal)
                _wait(TO_SAVE, lambda: any(process.poll() is not None for process in training))
            _wait(GRACE, lambda: all(process.poll() is not None for process in started.values()))
        ends = {role: process.poll() for role, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    if wish.signal:
        raise TrainingStopped(f"the workers were stopped; `{resumed_by}` goes on from the last checkpoint", wish.signal)
    dead = [f"{role.name} {_how(code)}" for role, code in ends.items() if code]
    if dead:
        raise TrainingError(f"{'; '.join(dead)}; all were ended; `{resumed_by}` goes on from the last checkpoint")


def _wait(seconds: float, done: Callable[[], bool]) -> None:
    """Wait until it is done, but no longer than that."""
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(LOOK)


def _how(code: int) -> str:
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
