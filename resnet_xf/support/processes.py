"""Child processes: each is a fresh Python with its own environment variables, and has a pipe to its parent.

This is the parent's side; the child's is :mod:`resnet_xf.support.parent`. Messages are JSON, in both directions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from resnet_xf.support.parent import FOLDER, PIPE, Failure
from resnet_xf.support.signals import ANNOUNCEMENT, StopRequest, catch_stop_signals

STDERR = 2
"""The file descriptor of this process's standard error, for the output of a child."""


class ProcessDied(Exception):  # noqa: N818 - the child failed, and not this program
    """A child process has ended; the message says how, as ``was killed by SIGKILL``."""


class Child:
    """A child process, as its parent sees it.

    Args:
        name: what messages to the user call it.
        command: the program and its arguments.
        variables: environment variables, added to those of this process.
        messages: the type of the messages that it sends: a tagged struct, or a union of several.
        stdout, stderr: file descriptors for its output; if None, those of this process.
        folder: a temporary folder of this process, which the child removes if this process is killed.

    Attributes:
        exit_code: None until :meth:`receive` has seen the end, or :meth:`end`; then as of ``subprocess``: -9 after
            SIGKILL.
        failure: the reason that it sent by :func:`report_failure`, if any.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        messages: Any = Failure,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.exit_code: int | None = None
        self.failure: str | None = None
        self._is_ended = False
        self._decoder = msgspec.json.Decoder(messages | Failure)
        removed = {} if folder is None else {FOLDER: str(folder)}
        self._pipe, other_end = Pipe()
        with other_end:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **variables, PIPE: str(other_end.fileno()), **removed},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(other_end.fileno(),),
                process_group=0,  # Ctrl-C in a terminal reaches the parent alone
            )
        # The pipe's end does not tell of the process's: a process that the child has forked may hold it open.
        sentinel, self._held_open = Pipe(duplex=False)
        self.waitables = [self._pipe, sentinel]
        """What :func:`multiprocessing.connection.wait` finds ready when :meth:`receive` has something to return."""
        Thread(target=self._close_sentinel_at_end, daemon=True).start()

    def _close_sentinel_at_end(self) -> None:
        self._process.wait()
        self._held_open.close()

    @property
    def ending(self) -> str:
        """How it ended, in words: ``was killed by SIGKILL`` or ``ended with exit code 2``."""
        code = self.exit_code or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def send(self, message: object) -> None:
        """Send a message; it is lost if the child has ended."""
        with suppress(OSError):
            self._pipe.send_bytes(msgspec.json.encode(message))

    def receive(self, seconds: float | None = None) -> Any:
        """Wait for the next message and return it.

        Raises:
            ProcessDied: if the process has ended and all its messages were received.
            TimeoutError: if there is no message for so many seconds.
        """
        if self.exit_code is not None:
            raise ProcessDied(self.ending)
        while ready := wait(self.waitables, seconds):
            if self._pipe not in ready:
                self.exit_code = self._process.wait()
                self.waitables.clear()
                raise ProcessDied(self.ending)
            try:
                message = self._decoder.decode(self._pipe.recv_bytes())
            except (EOFError, OSError):
                self.waitables.remove(self._pipe)
                continue
            if not isinstance(message, Failure):
                return message
            self.failure = message.reason
        raise TimeoutError

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self) -> None:
        """Kill the process and those that it has started, and wait until it has ended. A second call does nothing."""
        if self._is_ended:  # its number may be another process's by now
            return
        self._is_ended = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.exit_code = self._process.wait()
        for connection in (self._pipe, *self.waitables):
            connection.close()
        self.waitables.clear()


class Supervisor:
    """Children that work at the same time; :func:`supervise` makes one.

    Attributes:
        children: all that were started, in order.
        request: whether a signal has asked this process to stop.
        to_save: seconds that children have to save and end after they were asked to stop.
    """

    def __init__(self, request: StopRequest, woken: Connection, to_save: float) -> None:
        self.children: list[Child] = []
        self.request, self._woken, self.to_save = request, woken, to_save
        self._stopped = self._asked = False

    @property
    def stopping(self) -> bool:
        """Whether the children are asked to stop: by a signal to this process, or by :meth:`stop`."""
        return self._stopped or bool(self.request.signal)

    @property
    def running(self) -> list[Child]:
        """The children whose end was not seen yet."""
        return [child for child in self.children if child.exit_code is None]

    def start(self, *arguments: Any, **options: Any) -> Child:
        """Start a :class:`Child`; the arguments are its own."""
        self.children.append(child := Child(*arguments, **options))
        return child

    def stop(self) -> None:
        """Ask the children to save and end; :meth:`events` then does so."""
        self._stopped = True

    def events(self, children: Sequence[Child] | None = None, seconds: float = inf) -> Iterator[tuple[Child, Any]]:
        """Wait until some children have ended, and yield what all children do meanwhile.

        When they are to stop, those waited for get SIGTERM, and ``to_save`` seconds to end. This happens once only.

        Args:
            children: those to wait for; if None all, with those that are started meanwhile.
            seconds: how long to wait at most.

        Yields:
            A child and its message; or None in place of the message, once, when the child has ended.
        """
        waited_for = self.children if children is None else children
        until = time.monotonic() + seconds
        while running := [child for child in waited_for if child.exit_code is None]:
            if self.stopping and not self._asked:
                self._asked, until = True, min(until, time.monotonic() + self.to_save)
                for child in running:
                    child.ask_to_stop()
            owners = {connection: child for child in self.children for connection in child.waitables}
            left = until - time.monotonic()
            if left <= 0:
                return
            ready = wait([self._woken, *owners], None if left == inf else left)
            if self._woken in ready:
                self._woken.recv_bytes()
            for child in dict.fromkeys(owners[connection] for connection in ready if connection in owners):
                with suppress(TimeoutError):
                    try:
                        message = child.receive(0)
                    except ProcessDied:
                        message = None
                    yield child, message


@contextmanager
def supervise(announcement: bytes = ANNOUNCEMENT, to_save: float = inf) -> Iterator[Supervisor]:
    """Supervise children for as long as the block lasts, and kill those that are left at its end.

    Ctrl-C and SIGTERM are passed on to the children, see :meth:`Supervisor.events`. A second one ends the block.

    Args:
        announcement: what the user is told on stderr when such a signal comes.
        to_save: seconds that the children then have. A training has no limit: a step may take minutes.
    """
    woken, waker = Pipe(duplex=False)
    with woken, waker, catch_stop_signals(announcement, wake=lambda: waker.send_bytes(b"stop")) as request:
        supervisor = Supervisor(request, woken, to_save)
        try:
            yield supervisor
        finally:
            for child in supervisor.children:
                child.end()
