"""Distributed training on this machine: start the processes of a backend, and end all of them if one fails."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGTERM

from resnet_xf.errors import TrainingError, TrainingStopped
from resnet_xf.support.environment import processors
from resnet_xf.support.processes import supervise
from resnet_xf.support.signals import SIGPIPE

GRACE = 5.0
"""Seconds that the other processes have to end, after training has ended or one process has failed."""


@dataclass(frozen=True, eq=False)
class Role:
    """One process of distributed training.

    Attributes:
        name: its name in messages, for example ``worker 0``.
        environment: environment variables to add to those of the parent process.
        trains: False for MXNet's scheduler and parameter server, which only serve the workers.
    """

    name: str
    environment: dict[str, str]
    trains: bool = True


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def threads_each(workers: int) -> str:
    """Return the number of threads for each worker, as text for an environment variable."""
    return str(max(1, processors() // workers))


def run_together(roles: Sequence[Role], arguments: Sequence[str]) -> str:
    """Run ``resnet-xf`` with these arguments in one process for each role, until all that train have ended.

    Ctrl-C and SIGTERM are sent to all. The workers then stop at the same step, and the first one writes a checkpoint.

    Returns:
        All failures in one line, or an empty string.

    Raises:
        TrainingStopped: if a signal stopped the run, or nobody reads its output, with the message of the first worker.
        TrainingError: on Windows, where a process cannot receive a request to stop.
    """
    if sys.platform == "win32":
        raise TrainingError("several workers cannot be started on Windows; use Linux, or a container of it")
    command = [sys.executable, "-m", "resnet_xf", *arguments]
    with supervise() as supervisor:
        children = [supervisor.start(role.name, command, role.environment) for role in roles]
        training = [child for child, role in zip(children, roles, strict=True) if role.trains]
        for child, _ in supervisor.events(training):
            asked = supervisor.stopping and child.exit_code == 128 + SIGTERM
            if child.exit_code and not asked:
                break  # the others may wait for it
        # MXNet's scheduler and server end if all workers end well, and never after one that failed or stopped.
        failed = any(child.exit_code for child in children)
        for _ in supervisor.events(training if failed else children, GRACE):
            pass
        ended = [child for child in children if child.exit_code]  # the end of this block kills the others
    reasons = "; ".join(dict.fromkeys(child.failure for child in children if child.failure))
    unread = any(child.exit_code == 128 + SIGPIPE for child in children)  # nobody reads what the first worker prints
    if stopped := supervisor.request.signal or (SIGPIPE if unread else 0):
        raise TrainingStopped(reasons or "stopped before the first step", stopped)
    silent = [f"{child.name} {child.ending}" for child in ended if child.failure is None]
    return "; ".join(filter(None, (*silent, reasons)))
