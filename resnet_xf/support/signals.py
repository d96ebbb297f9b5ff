"""Ctrl-C and SIGTERM: as an exit that cleans up, or as a request that the program obeys at a moment that suits it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGPIPE: int = getattr(signal, "SIGPIPE", 13)
"""The signal's number also on Windows, which has no such signal."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

ANNOUNCEMENT = b"\nresnet-xf: stopping, as soon as the checkpoint is written; again to quit without one\n"


@contextmanager
def exit_on_stop_signals() -> Iterator[None]:
    """Within the block, let Ctrl-C and SIGTERM end the program by SystemExit, so that no file or process is left.

    The exit code is 128 and the signal's number. A second signal ends the process at once. A signal that was ignored
    before stays so; outside the main thread, where Python allows no handlers, nothing is changed.
    """
    replaced: dict[int, Any] = {}

    def leave(number: int, frame: FrameType | None) -> None:
        for each in replaced:
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        replaced = {n: handler for n in STOP_SIGNALS if (handler := signal.getsignal(n)) not in (None, signal.SIG_IGN)}
    for each in replaced:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each, handler in replaced.items():
            signal.signal(each, handler)


class StopRequest:
    """Whether a signal has asked this process to stop: ``signal`` is its number, or 0."""

    signal: int = 0


@contextmanager
def catch_stop_signals(
    announcement: bytes = b"", *, enabled: bool = True, wake: Callable[[], object] = lambda: None
) -> Iterator[StopRequest]:
    """Within the block, turn the first Ctrl-C or SIGTERM into a request; a second one acts as it did before.

    Args:
        announcement: what the user is told on stderr when the signal comes.
        enabled: if False, no signal is caught; nor outside the main thread, where Python allows no handlers.
        wake: called when the signal comes, so that whoever waits can look at the request.

    Yields:
        The request.
    """
    request = StopRequest()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # None: the handler was not set by Python, and could not be put back; its signal is left alone.
    replaced = {number: handler for number, handler in handlers.items() if handler is not None}

    def restore() -> None:
        for number, handler in replaced.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()
        os.write(2, announcement)
        wake()

    for number in replaced:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
