"""Ctrl-C and SIGTERM as a wish that is heeded between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM)


class Wish:
    """``signal`` is the number of the signal that asked to stop, or 0."""

    signal: int = 0


@contextmanager
def asked_to_stop(*, heeded: bool, tell: bool = False) -> Iterator[Wish]:
    """While in the block, note the first signal that asks to stop; a second one does what it always did.

    Nothing is noted if not ``heeded``, or outside the main thread, where Python allows no handlers. ``tell`` says so on
    stderr.
    """
    wish = Wish()
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield wish
        return
    # A handler that Python did not set cannot be put back, so its signal is left alone.
    found = {number: signal.getsignal(number) for number in ASKING}
    before = {number: handler for number, handler in found.items() if handler is not None}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        wish.signal = number
        restore()
        if tell:
            os.write(2, b"\nresnet-xf: stopping, as soon as the checkpoint is written; again to quit without one\n")

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        restore()
