"""Distributed training on this machine: starts each backend's processes, and ends them all when one dies."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_xf.errors import TrainingError, TrainingStopped
from resnet_xf.support.environment import processors
from resnet_xf.support.processes import supervise

GRACE = 5.0
"""Seconds in which all other processes must end once training has ended, or one process has failed."""


@dataclass(frozen=True, eq=False)
class Role:
    """One process of distributed training.

    Attributes:
        name: what messages call it, as ``worker 0``.
        environment: environment variables, added to those of the process that starts it.
        trains: False for a process that only serves the others, as MXNet's scheduler and parameter server.
    """

    name: str
    environment: dict[str, str]
    trains: bool = True


def free_port() -> int:
    """A TCP port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def threads_each(workers: int) -> str:
    """How many threads each of several processes may use, as the text of an environment variable."""
    return str(max(1, processors() // workers))


def run_together(roles: Sequence[Role], arguments: Sequence[str]) -> str:
    """Run the command ``resnet-xf`` with these arguments in every role, until all that train have ended.

    Ctrl-C and SIGTERM are passed on. The workers then stop at the same step, and the first one writes a checkpoint.

    Returns:
        What went wrong, in one line; empty if nothing did.

    Raises:
        TrainingStopped: if a signal stopped the run; with the message of the first worker.
        TrainingError: on Windows, where a process cannot be asked to stop.
    """
    if sys.platform == "win32":
        raise TrainingError("several workers cannot be started on Windows; use Linux, or a container of it")
    command = [sys.executable, "-m", "resnet_xf", *arguments]
    with supervise() as supervisor:
        children = [supervisor.start(role.name, command, role.environment) for role in roles]
        training = [child for child, role in zip(children, roles, strict=True) if role.trains]
        for child, _ in supervisor.events(training):
            if child.exit_code and not supervisor.stopping:
                break
        for _ in supervisor.events(children, GRACE):
            pass
    reasons = "; ".join(dict.fromkeys(child.failure for child in children if child.failure))
    if supervisor.request.signal:
        raise TrainingStopped(reasons or "stopped before the first step", supervisor.request.signal)
    silent = [f"{child.name} {child.ending}" for child in children if child.exit_code and child.failure is None]
    return "; ".join(filter(None, (*silent, reasons)))
