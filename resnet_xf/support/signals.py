"""Ctrl-C and SIGTERM as a request to stop, which the program obeys at a moment that suits it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

ANNOUNCEMENT = b"\nresnet-xf: stopping, as soon as the checkpoint is written; again to quit without one\n"


class StopRequest:
    """Whether a signal has asked this process to stop: ``signal`` is its number, or 0."""

    signal: int = 0


@contextmanager
def catch_stop_signals(
    *, enabled: bool = True, announce: bool = False, wake: Callable[[], object] = lambda: None
) -> Iterator[StopRequest]:
    """Within the block, turn the first Ctrl-C or SIGTERM into a request; a second one acts as it did before.

    Args:
        enabled: if False, no signal is caught; nor outside the main thread, where Python allows no handlers.
        announce: whether to tell the user on stderr that the program is stopping.
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
        if announce:
            os.write(2, ANNOUNCEMENT)
        wake()

    for number in replaced:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
