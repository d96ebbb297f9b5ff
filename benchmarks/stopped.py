"""What a command leaves behind if a signal stops it at a random moment.

``python benchmarks/stopped.py`` starts each of ``parity``, ``capture``, ``convert``, ``train`` and ``bench`` ten times,
in an empty folder and with temporary files in another, sends SIGTERM at a random moment, and looks at the exit code,
the files and the processes. ``bench`` is also stopped by SIGINT and by SIGKILL, and its report must be readable and
marked as partial. The script prints a table and writes ``benchmarks/results/stopped.json``, or
``stopped_COMMANDS.json`` for some commands alone. The exit code is 1 if anything is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from common import RESULTS, write_results
from kill_and_resume import SPEC

from resnet_xf import draw_weights, save_weights
from resnet_xf.errors import ResNetXFError
from resnet_xf.speed.bench.report import BenchReport
from resnet_xf.support.environment import environment
from resnet_xf.training.checkpoint import load_checkpoint

COMMANDS = {
    "parity": ("parity", "spec.toml", "--level", "standard", "--json"),
    "capture": ("capture", "spec.toml", "--backend", "torch", "--level", "standard", "--out", "evidence"),
    "convert": ("convert", "w.safetensors", "out.pth"),
    "train": ("train", "spec.toml", "--epochs", "20", "--device", "cpu", "--out", "run"),
    "bench": (
        *("bench", "spec.toml", "--backend", "torch", "--mode", "infer,train", "--preset", "eager,tuned"),
        *("--time", "1", "--batch", "2", "--out", "report.json"),
    ),
}
OUTPUTS = {
    "capture": ("evidence",),
    "convert": ("out.pth", "out.pth.json"),
    "train": ("run",),
    "bench": ("report.json",),
}
"""What may be there in the end: whole, or as far as the training or the measurement came."""

SIGNALS = {"bench": (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)}
"""The signals that stop a command, by its name; SIGTERM for all others."""

CACHES = "torchinductor_"
"""PyTorch's own folder among the temporary files begins so."""

PATIENCE, DYING = 60.0, 10.0
"""Seconds after which a command that was stopped counts as hanging, and what it started as left."""


def processes(mark: str) -> list[int]:
    """The processes whose environment has the mark."""
    some = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                some.append(int(path.parent.name))
        except OSError:  # it has ended, or is another user's
            continue
    return some


def one(name: str, moment: float | None, number: signal.Signals = signal.SIGTERM) -> dict[str, Any]:
    """Run a command, stop it by a signal after so many seconds if they are given, and tell what is left."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as outer:
        work, temporary = Path(outer) / "work", Path(outer) / "tmp"
        work.mkdir()
        temporary.mkdir()
        (work / "spec.toml").write_text(SPEC.to_toml())
        save_weights(work / "w.safetensors", draw_weights(SPEC), SPEC)
        before = set(work.iterdir())
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "resnet_xf", *COMMANDS[name]],
            cwd=work,
            env=os.environ | {"TMPDIR": str(temporary), "RESNET_XF_MARK": mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        try:
            _, said = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1] + "hung"
        seconds = time.perf_counter() - began
        outputs = OUTPUTS.get(name, ())
        until = time.monotonic() + DYING
        while True:
            time.sleep(0.2)
            alive = processes(mark)
            left = [path.name for path in set(work.iterdir()) - before] + [path.name for path in temporary.iterdir()]
            odd = [path for path in left if path not in outputs and not path.startswith(CACHES)]
            if not (alive or odd) or time.monotonic() > until:
                break
        problems = [f"left {path}" for path in odd] + [f"process {number} lives" for number in alive]
        ended = process.returncode
        if ended not in (0, 128 + number, -number):  # the last while Python itself starts or ends
            problems.append(f"exit code {ended}: {said.strip()[-200:]}")
        if name == "train" and "run" in left:
            try:
                load_checkpoint(work / "run")
            except ResNetXFError as error:
                problems.append(str(error))
        measured = None
        if name == "bench" and ("started" in said or "report.json" in left):
            try:
                report = BenchReport.read(work / "report.json")
                measured = sum(row.result is not None for row in report.rows)
                if report.partial != (ended != 0) and measured < len(report.rows):
                    problems.append(f"exit code {ended}, {measured} cases measured, partial: {report.partial}")
            except ResNetXFError as error:
                problems.append(str(error))
    more = {} if measured is None else {"cases measured": measured}
    return {"moment": moment, "seconds": round(seconds, 3), "exit code": ended, **more, "problems": problems}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--times", type=int, default=10, help="how often to stop each command")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    names = options.commands.split(",")
    draw = random.Random(options.seed)
    result: dict[str, Any] = {
        "command": f"python benchmarks/stopped.py --commands={options.commands} --times={options.times} "
        f"--seed={options.seed}",
        "environment": environment(),
        "commands": {},
    }
    print("| command | seconds if left alone | stopped after | exit codes | problems |")
    print("| --- | ---: | --- | --- | --- |")
    failed = False
    runs = [(name, number) for name in names for number in SIGNALS.get(name, (signal.SIGTERM,))]
    for name, number in runs:
        if name not in result["commands"]:
            whole = one(name, None)
        stops = [one(name, round(draw.uniform(0, whole["seconds"]), 2), number) for _ in range(options.times)]
        name += "" if number == signal.SIGTERM else f", {number.name}"
        result["commands"][name] = {"left alone": whole, "stopped": stops}
        codes = Counter(stop["exit code"] for stop in stops)
        problems = [problem for stop in [whole, *stops] for problem in stop["problems"]]
        failed |= bool(problems)
        moments = ", ".join(f"{stop['moment']:.1f}" for stop in sorted(stops, key=lambda stop: stop["moment"]))
        ends = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        print(
            f"| {name} | {whole['seconds']:.1f} | {moments} s | {ends} | {'; '.join(problems) or 'none'} |", flush=True
        )
    some = "" if names == list(COMMANDS) else "_" + "_".join(names)
    write_results(options.out / f"stopped{some}.json", result)
    sys.exit(failed)


if __name__ == "__main__":
    main()
