"""Ctrl-C and SIGTERM: as an exit that cleans up, or as a request that the program obeys at a moment that suits it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

    def leave(number: int) -> None:
        for each in _handlers():
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + number)

    with _handled_once(leave):
        yield


class StopRequest:
    """Whether a signal has asked this process to stop: ``signal`` is its number, or 0."""

    signal: int = 0


@contextmanager
def catch_stop_signals(announcement: bytes = b"", wake: Callable[[], object] = lambda: None) -> Iterator[StopRequest]:
    """Within the block, turn the first Ctrl-C or SIGTERM into a request; a second one acts as it did before.

    A signal that was ignored before stays so. Outside the main thread, nothing is changed.

    Args:
        announcement: what the user is told on stderr when the signal comes.
        wake: called when the signal comes, so that whoever waits can look at the request.

    Yields:
        The request.
    """
    request = StopRequest()

    def note(number: int) -> None:
        request.signal = number
        with suppress(OSError):  # stderr is closed, as when Ctrl-C has also ended the program that reads it
            os.write(2, announcement)
        wake()

    with _handled_once(note):
        yield request


@contextmanager
def _handled_once(handle: Callable[[int], object]) -> Iterator[None]:
    """Within the block, call ``handle`` at the first stop signal, once the handlers before are put back."""
    replaced = _handlers()

    def restore() -> None:
        for number, handler in replaced.items():
            signal.signal(number, handler)

    def handle_once(number: int, frame: FrameType | None) -> None:
        restore()
        handle(number)

    for number in replaced:
        signal.signal(number, handle_once)
    try:
        yield
    finally:
        restore()


def _handlers() -> dict[int, Any]:
    """Return the handlers of the stop signals, without those that are ignored or that Python did not set.

    Outside the main thread, where Python allows no handlers, there are none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
