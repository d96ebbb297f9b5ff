import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from helpers.processes import wait_for
from resnet_xf.support.processes import Child, ProcessDied, supervise


class Text(msgspec.Struct, frozen=True, tag=True):
    text: str


PRELUDE = """
import os, signal, sys, time
import msgspec
from resnet_xf.support.parent import connect, report_failure

class Text(msgspec.Struct, frozen=True, tag=True):
    text: str

parent = connect()
"""


def command(*lines: str) -> list[str]:
    return [sys.executable, "-c", PRELUDE + "\n".join(lines)]


@pytest.fixture
def child():
    """Starts a child that runs those lines; all are ended after the test."""
    started = []

    def start(*lines: str, **variables: str) -> Child:
        started.append(Child("a child", command(*lines), variables, Text))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_messages_go_both_ways_and_variables_are_there_from_the_start(child) -> None:
    echo = child(
        "parent.send(Text(os.environ['COLOUR']))",
        "for number in parent.messages(int):",
        "    parent.send(Text(str(number + 1)))",
        COLOUR="red",
    )
    assert echo.receive(60) == Text("red")
    echo.send(1)
    assert echo.receive(60) == Text("2")
    with pytest.raises(TimeoutError):
        echo.receive(0.05)


def test_an_end_is_told_in_words_after_the_last_message(child) -> None:
    for line, ending in (
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("sys.exit(3)", "ended with exit code 3"),
        ("pass", "ended with exit code 0"),
    ):
        one = child("parent.send(Text('last'))", line)
        assert one.receive(60) == Text("last")
        with pytest.raises(ProcessDied, match=f"^{ending}$"):
            one.receive(60)
    failed = child("report_failure('no such thing')", "os._exit(2)")
    with pytest.raises(ProcessDied, match="exit code 2"):
        failed.receive(60)
    assert failed.failure == "no such thing"


def test_an_end_is_seen_though_another_process_holds_the_pipe(child) -> None:
    one = child("if os.fork():", "    os._exit(5)", "time.sleep(1000)")
    with pytest.raises(ProcessDied, match="exit code 5"):
        one.receive(60)


def test_what_a_busy_parent_does_not_read_is_dropped(child) -> None:
    one = child(
        "for number in range(100_000):",
        "    parent.send(Text(str(number)), droppable=True)",
        "report_failure('done')",
        "os._exit(0)",
    )
    while not one.waitables[0].poll(0.1):
        pass
    time.sleep(1)
    texts: list[int] = []

    def read_all() -> None:
        while True:
            texts.append(int(one.receive(60).text))

    with pytest.raises(ProcessDied):
        read_all()
    assert texts == sorted(set(texts))
    assert len(texts) < 100_000
    assert one.failure == "done"


def test_a_child_ends_with_its_parent(tmp_path) -> None:
    lines = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))", "time.sleep(1000)"
    script = f"import time\nfrom resnet_xf.support.processes import Child\nChild('', {command(*lines)}, {{}})\ntime.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    finally:
        process.kill()
        process.wait()
    started = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(started))


def test_a_signal_is_passed_on_and_nobody_is_left() -> None:
    saving = "signal.signal(signal.SIGTERM, lambda *_: (parent.send(Text('saved')), os._exit(0)))"
    with supervise() as supervisor:
        patient = supervisor.start("one", command(saving, "parent.send(Text('ready'))", "time.sleep(1000)"), {}, Text)
        serving = supervisor.start("two", command("time.sleep(1000)"), {}, Text)
        events = []
        for child, message in supervisor.events([patient]):
            events.append((child.name, message and message.text))
            if len(events) == 1:
                os.kill(os.getpid(), signal.SIGINT)
        assert events == [("one", "ready"), ("one", "saved"), ("one", None)]
        assert supervisor.request.signal == signal.SIGINT
        assert (patient.exit_code, serving.exit_code) == (0, None)
        pid = serving._process.pid
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
