"""What stop signals do within the two blocks of ``resnet_xf/support/signals.py``."""

import os
import signal
from collections.abc import Iterator

import pytest

from resnet_xf.support.signals import catch_stop_signals, exit_on_stop_signals


def test_a_signal_is_a_request_though_nobody_reads_stderr() -> None:
    """As when Ctrl-C has also ended the program that reads it."""
    woken: list[str] = []
    stderr, (reader, writer) = os.dup(2), os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    try:
        with catch_stop_signals(b"stopping\n", wake=lambda: woken.append("once")) as request:
            signal.raise_signal(signal.SIGTERM)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writer)
    assert (request.signal, woken) == (signal.SIGTERM, ["once"])


@pytest.fixture
def ignored_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_that_was_ignored_makes_no_request(ignored_sigterm: None) -> None:
    with catch_stop_signals() as request:
        signal.raise_signal(signal.SIGTERM)
        assert request.signal == 0
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
    assert (request.signal, signal.getsignal(signal.SIGTERM)) == (signal.SIGINT, signal.SIG_IGN)


def test_a_signal_that_was_ignored_ends_no_program(ignored_sigterm: None) -> None:
    with exit_on_stop_signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit, match="^130$"):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL, "a second Ctrl-C ends the process at once"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_a_second_signal_acts_as_before() -> None:
    with catch_stop_signals() as request:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert request.signal == signal.SIGINT
