"""A bench that ends before all is measured: by its budget, by a signal, or because a GPU's memory is full."""

import os
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers.bench import QUICK, SECONDS, case, in_this_process, patched
from helpers.runs import TINY
from resnet_xf.cli import bench as bench_command
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench import crew as crew_module
from resnet_xf.speed.bench import harness as harness_module
from resnet_xf.speed.bench import worker as worker_module
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.charts import plot
from resnet_xf.speed.bench.crew import Crew
from resnet_xf.speed.bench.harness import bench
from resnet_xf.speed.bench.memory import device_memory
from resnet_xf.speed.bench.report import NO_VERDICT, BenchReport, Prepared, compare
from resnet_xf.speed.bench.runner import Runner
from resnet_xf.speed.bench.turns import too_many
from resnet_xf.speed.bench.worker import COMMAND, PeakMemory, Ready, Released
from resnet_xf.support.environment import Memory

PATIENCE = 120.0


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch) -> None:
    monkeypatch.setattr(worker_module, "COMMAND", (*COMMAND[:2], QUICK + COMMAND[2]))


@pytest.fixture(scope="module")
def partial() -> BenchReport:
    """Of two cases, one is measured; the other does not get ready before its budget ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "COMMAND", (*COMMAND[:2], QUICK + COMMAND[2]))
        patched(patch, tuned="import time\ntime.sleep(600)")
        lines: list[str] = []

        def log(line: str) -> None:
            lines.append(line)
            if line.endswith(" s") and "eager" in line:  # it is ready, and so the time of the other one is over
                patch.setattr(crew_module, "PREPARING", 0.0)
                patch.setattr(crew_module, "LEAST", 600.0)

        reports: list[tuple[BenchReport, int]] = []
        keep = lambda report, complete: reports.append((report, complete))  # noqa: E731
        report = bench([case(preset="tuned"), case()], seconds=SECONDS, budget=600, log=log, keep=keep)
    what = [line.partition("batch 4: ")[2].split()[0] for line in lines if "batch 4: " in line]
    assert what == ["started", "started", "ready", "not", "measured,"]
    assert "eager" in lines[0], "under a budget, what needs no compiler comes first"
    assert [complete for _, complete in reports] == [0, 1, 1]
    first = reports[0][0]
    assert {row.reason for row in first.rows} == {"not measured yet"}
    assert (first.partial, first.ended) == (True, "not finished")
    return report


def test_a_budget_ends_what_does_not_get_ready(partial: BenchReport) -> None:
    late, measured = partial.rows
    assert measured.result is not None
    assert (late.result, late.reason, late.failed) == (None, "not measured: budget", False)
    assert (partial.partial, partial.ended) == (True, "the budget of 600 s is spent")
    assert not partial.failed


def test_groups_that_come_later_have_their_share_of_a_budget(monkeypatch) -> None:
    """What does not get ready in the share of its own group takes nothing from the next one."""
    in_this_process(monkeypatch)
    monkeypatch.setattr(harness_module, "processors", lambda: 2)  # so the second group gets ready after the first
    shares, prepare = [], Crew.prepare

    def spy(crew: Crew, cases: list[Case]) -> list[Case]:
        now = time.monotonic()
        shares.append((crew.goal - now) / (crew.ends - now))
        return prepare(crew, cases)

    monkeypatch.setattr(Crew, "prepare", spy)
    report = bench([case(), case(preset="tuned"), case(mode="train")], seconds=SECONDS, budget=600)
    assert all(row.result for row in report.rows)
    assert shares == pytest.approx([2 / 3, 1], abs=0.01)


def test_a_partial_report_is_read_shown_drawn_and_compared(partial: BenchReport, command, tmp_path, capsys) -> None:
    path = tmp_path / "partial.json"
    path.write_text(partial.to_complete_json())
    assert BenchReport.read(path) == partial
    assert "not measured: budget" in partial.to_csv()
    plot(partial, tmp_path / "partial.svg")
    drawn = (tmp_path / "partial.svg").read_text()
    assert "partial: the budget of 600 s is spent" in drawn
    assert "not measured: budget" in drawn
    output = bench_command._Output(None, None, "", bench_command.ProgressBar(), 0.0)
    output.keep(partial, 1)
    output.finish()
    printed = capsys.readouterr().out
    assert printed.startswith("tiny, infer, 12×12, cpu, 1 thread (partial)\n")
    assert "torch tuned float32, batch 4: not measured: budget\n" in printed
    assert "PARTIAL: the budget of 600 s is spent; 1 of 2 cases were not measured\n" in printed
    assert printed.count("1 thread (partial)") == 1
    comparison = compare(partial, partial)
    assert comparison.partial == dict.fromkeys(("before", "after"), partial.ended)
    assert [change.verdict for change in comparison.changes] == [NO_VERDICT] == ["one launch: no verdict"]
    code, printed, _ = command("bench", "--compare", path, path)
    assert code == 0
    assert "the report before is partial: the budget of 600 s is spent" in printed


def test_reports_of_several_launches_have_a_verdict(partial: BenchReport) -> None:
    row = partial.rows[1]
    assert row.result is not None
    launches = ({0: 10.0, 1: 11.0},) * 3
    slow, fast = (
        replace(partial, rows=(replace(row, result=replace(row.result, rates=rates)),))
        for rates in (launches, tuple({turn: 9 * rate for turn, rate in launch.items()} for launch in launches))
    )
    assert compare(slow, fast).changes[0].verdict == "faster"
    assert compare(slow, replace(fast, rows=partial.rows)).changes[0].verdict == NO_VERDICT


def test_a_budget_too_small_for_anything(command, tmp_path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    out = tmp_path / "report.json"
    code, printed, _ = command(
        "bench", tmp_path / "tiny.toml", "--backend", "torch", "--batch", 4, "--budget", 0.1, "--out", out
    )
    assert code == 1
    assert "torch best float32, batch 4: not measured: budget\n" in printed
    assert BenchReport.read(out).partial
    code, _, complaint = command("bench", tmp_path / "tiny.toml", "--budget", 0)
    assert (code, complaint) == (2, "resnet-xf: budget: expected more than 0 seconds, got 0.0\n")


ENDLESS = (
    *("bench", "tiny.toml", "--backend", "torch", "--preset", "eager", "--batch", "2", "--threads", "1"),
    *("--mode", "infer,train", "--time", "0.05", "--launches", "500", "--out", "report.json", "--plot", "speed.svg"),
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_that_is_stopped_leaves_its_report_and_nothing_else(number, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_xf", *ENDLESS],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "measured" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    report = BenchReport.read(tmp_path / "report.json")
    assert report.partial
    assert len(report.rows) == 2
    if number == signal.SIGKILL:
        assert report.ended == "not finished"
    else:
        assert report.ended == f"stopped by {number.name}"
        assert report.rows[0].result is not None
        assert f"PARTIAL: stopped by {number.name}; " in printed
        assert "partial: stopped" in (tmp_path / "speed.svg").read_text()
    until = time.monotonic() + PATIENCE
    while list((tmp_path / "tmp").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.toml", "tmp", "report.json", "speed.svg"}


GPU = """import msgspec, resnet_xf.speed.bench.worker as worker
from resnet_xf.speed.bench.worker import PeakMemory, Released
refusal, start = worker._refusal, worker.Engine.start
def started(engine, reference):
    if not hasattr(engine, "tried"):
        engine.tried = True
        raise MemoryError("out of memory")
    return start(engine, reference)
worker.Engine.start = started
worker._refusal = lambda error, case: msgspec.structs.replace(refusal(error, case), full=True)
worker._release = lambda engine: Released(10, 60)
worker._peak = lambda engine: PeakMemory(2**28, 60)
"""
"""Makes a process of the CPU tell of a GPU: it is full at the first start; each case keeps 10 bytes and needs 60."""


def test_cases_share_the_memory_of_a_gpu(monkeypatch) -> None:
    """Each starts again alone, since the memory was full; in its turn, others give their memory back."""
    patched(monkeypatch, torch=GPU)
    asked = []
    ask = crew_module.Crew.ask

    def spy(crew, runner, do, *given):
        asked.append((do, runner.case.preset))
        return ask(crew, runner, do, *given)

    monkeypatch.setattr(crew_module.Crew, "ask", spy)
    report = bench([case(), case(preset="tuned")], seconds=SECONDS)
    assert not report.partial
    for row in report.rows:
        assert row.result is not None, row.reason
        assert row.result.device_memory == 60
        assert row.result.speed.rounds == 10
    assert ("release", "eager") in asked
    assert ("release", "tuned") in asked


class Idle:
    """A worker whose process has nothing to do."""

    def end(self) -> None:
        """There is no process."""


def waiting_crew(partial: BenchReport, tmp_path: Path, *cases: Case) -> Crew:
    """A crew whose cases are ready: each keeps 50 bytes of a GPU with 100, and needs 60 in its turn."""
    prepared = Prepared(**{name: getattr(partial.rows[1].result, name) for name in Prepared.__struct_fields__})
    ready = Ready(prepared, PeakMemory(2**30, 60), Released(50, 0))
    crew = Crew(cases, None, tmp_path, lambda parts, text: None, print, lambda row: None, 11)  # type: ignore[arg-type]
    crew.runners = [Runner(one, Idle(), 0.0, "ready", ready=ready, held=50) for one in cases]  # type: ignore[arg-type]
    crew.capacity = 100
    return crew


def test_cases_that_keep_too_much_memory_of_a_gpu_wait(partial: BenchReport, tmp_path: Path) -> None:
    crew = waiting_crew(partial, tmp_path, case(), case(preset="best"))
    assert too_many(crew, list(crew.runners)) == [case(preset="best")]
    assert [runner.case for runner in crew.runners] == [case()]
    again = waiting_crew(partial, tmp_path, case(), case(preset="best"))
    again.waited = crew.waited
    assert too_many(again, list(again.runners)) == [], "it would wait for ever"


def test_another_process_needs_free_memory(partial: BenchReport, tmp_path: Path, monkeypatch) -> None:
    crew = waiting_crew(partial, tmp_path, case())
    for free, fits in ((2**30, False), (2**31, True)):
        monkeypatch.setattr(crew_module, "memory", lambda free=free: Memory(2**40, free))
        assert crew_module.fits_another(crew.runners, case(preset="best")) is fits
        starting = Runner(case(preset="tuned"), Idle(), 0.0)  # type: ignore[arg-type]
        assert not crew_module.fits_another([*crew.runners, starting], case(preset="best"))


def test_memory_of_a_gpu_is_estimated() -> None:
    """As it was measured for ResNet-50 of 256 images in bfloat16: about 25 GB in training."""
    from resnet_xf import plan

    fields = {"image_size": (224, 224), "device": "cuda", "batch": 256, "precision": "bfloat16", "preset": "eager"}
    train = Case(spec=plan("resnet50").spec, backend="torch", threads=1, mode="train", **fields)
    assert 20e9 < device_memory(train, None) < 30e9
    assert device_memory(train, 5) == 5
    assert device_memory(replace(train, precision="float32"), None) > 1.5 * device_memory(train, None)
    assert device_memory(replace(train, mode="infer"), None) < 8e9


@pytest.mark.parametrize(
    "option, says",
    [
        ({"budget": -1}, "budget: expected more than 0 seconds, got -1"),
        ({"seconds": inf}, "time: expected more than 0 seconds, and not for ever, got inf"),
        ({"launches": 0}, "launches: each case needs 1 process at least, got 0"),
    ],
)
def test_a_bench_refuses_options_without_sense(option, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        bench([case()], **option)
