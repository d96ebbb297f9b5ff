"""The parent of this process, if it is a child that :mod:`resnet_xf.support.processes` has started.

The child inherits one end of a Unix socket, whose file descriptor the environment variable ``PIPE`` holds. When the
parent is gone, however it ended, the child reads the end of the pipe, and ends with all processes of its group.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import msgspec

PIPE, FOLDER = "RESNET_XF_PIPE", "RESNET_XF_FOLDER"
"""Environment variables: the pipe's descriptor, and a temporary folder that the child removes if its parent is gone."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """A message of a child: why it cannot go on, in one line. An empty reason says that another child tells it."""

    reason: str


class Parent:
    """The process that started this one, as the child sees it. When it is gone, this process ends."""

    def __init__(self, descriptor: int, folder: str | None = None) -> None:
        from multiprocessing.connection import Connection  # late: every command imports this module

        os.set_inheritable(descriptor, False)
        self._pipe = Connection(descriptor)
        self._folder = folder
        self._received: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._received.put(self._pipe.recv_bytes())
        while self._folder is not None:  # another thread may make it again
            gone = f"{self._folder}.{os.getpid()}"
            try:  # moved first, so that this process or another one cannot write there meanwhile
                os.rename(self._folder, gone)
            except OSError:
                break
            shutil.rmtree(gone, ignore_errors=True)
        if os.getpgrp() == os.getpid():  # the processes that this one has started
            os.killpg(0, signal.SIGKILL)
        os._exit(2)

    def messages(self, kind: Any) -> Iterator[Any]:
        """Wait for each message, and yield it as an object of this type."""
        while True:
            yield msgspec.json.decode(self._received.get(), type=kind)

    def send(self, message: msgspec.Struct, *, droppable: bool = False) -> None:
        """Send a message. One that is ``droppable`` is lost if the pipe is full; others wait."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLOUT)
        if not droppable or poll.poll(0):
            with suppress(OSError):
                self._pipe.send_bytes(msgspec.json.encode(message))


_parent: Parent | None = None


def connect() -> Parent | None:
    """The parent of this process if it was started as a :class:`Child`, else None; call this first of all."""
    global _parent
    descriptor = os.environ.pop(PIPE, None)  # a process that this one starts has another parent
    folder = os.environ.pop(FOLDER, None)
    if descriptor is not None:
        _parent = Parent(int(descriptor), folder)
    return _parent


def has_parent() -> bool:
    """Whether this process is a :class:`Child` and has called :func:`connect`."""
    return _parent is not None


def report_failure(reason: str) -> None:
    """Send the parent the reason why this process cannot go on; without a parent, print it on stderr."""
    if _parent is not None:
        _parent.send(Failure(reason))
    elif reason:
        print(f"resnet-xf: {reason}", file=sys.stderr)  # noqa: T201
