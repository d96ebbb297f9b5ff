"""Whether a run that is killed and resumed ends with the same bits as a run that is never stopped.

``python benchmarks/kill_and_resume.py`` trains a tiny network by the command line and sends SIGKILL to each backend's
run ten times, at random moments. It prints the comparison and writes ``benchmarks/results/kill_and_resume.json``. The
exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from common import RESULTS, write_results

from resnet_xf import Recipe, ResNetSpec, Stage, Stem, get_backend
from resnet_xf.architecture.measures import same_bits
from resnet_xf.architecture.weights import Weights
from resnet_xf.errors import ResNetXFError
from resnet_xf.support.environment import environment, processors
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import EpochRecord, load_checkpoint
from resnet_xf.training.recipe import Augmentation, Optimizer, Schedule

SPEC = ResNetSpec(
    name="tiny",
    in_channels=1,
    num_classes=10,
    image_size=(16, 16),
    stem=Stem(kind="conv3", width=8),
    stages=(Stage(depth=1, channels=8), Stage(depth=1, channels=16, stride=2)),
)
EARLY = 0.3
"""Share of the kills before the first checkpoint. Of the rest, every second one hits while a checkpoint is written."""


class LostError(Exception):
    """A kill has damaged or lost something."""


def recipe(epochs: int) -> Recipe:
    """A recipe with all that a resumed run must restore: momentum, a learning rate that drops, augmentation."""
    return Recipe(
        name="killed",
        epochs=epochs,
        batch_size=64,
        optimizer=Optimizer(learning_rate=0.05, momentum=0.9, weight_decay=5e-4),
        schedule=Schedule(kind="step", milestones=(epochs * 0.6,)),
        augmentation=Augmentation(crop="padded", padding=2, flip=True),
        image_size=(16, 16),
    )


def start(run: Path, backend: str, resume: bool) -> subprocess.Popen[str]:
    """Start or resume a run in a process of its own."""
    begin = ["spec.toml", "--dataset", "digits", "--recipe", "recipe.toml", "--out", run.name]
    arguments = ["--resume", run.name] if resume else begin
    return subprocess.Popen(
        [sys.executable, "-m", "resnet_xf", "train", *arguments, "--backend", backend, "--device", "cpu"],
        cwd=run.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait until a run has ended; raises LostError if its exit code is not 0."""
    _, said = process.communicate()
    if process.returncode:
        raise LostError(f"the run ended with code {process.returncode}: {said.strip()}")


def records(run: Path) -> list[EpochRecord]:
    """The finished epochs in a run's ``metrics.jsonl``."""
    path = run / "metrics.jsonl"
    try:
        return msgspec.json.Decoder(EpochRecord).decode_lines(path.read_bytes()) if path.exists() else []
    except msgspec.DecodeError as error:
        raise LostError(f"metrics.jsonl is damaged: {error}") from None


def written(run: Path) -> int:
    """When ``metrics.jsonl`` was last written: when a process opened the run, or after an epoch."""
    path = run / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def left_alone(run: Path, backend: str) -> tuple[float, float]:
    """Train without a stop; the seconds until training starts, and the seconds until it has ended."""
    begun = time.perf_counter()
    process = start(run, backend, resume=False)
    while not written(run) and process.poll() is None:
        time.sleep(0.005)
    opened = time.perf_counter() - begun
    finish(process)
    return opened, time.perf_counter() - begun


def kill(run: Path, backend: str, moment: float, aimed: bool, opening: float, epoch: float) -> dict[str, Any]:
    """Start or resume a run, kill it, and check what it leaves.

    Args:
        run: the run's folder.
        backend: to train with.
        moment: when to kill, in epochs of the whole run; from -1 to 0 is the first process's start-up.
        aimed: whether to wait after that moment until a checkpoint is being written.
        opening: about how many seconds the start-up takes.
        epoch: about how many seconds an epoch takes.
    """
    before, begun = written(run), time.perf_counter()
    process = start(run, backend, resume=bool(list_checkpoints(run)))

    def waiting() -> bool:
        if moment < 0:
            return written(run) == before and time.perf_counter() - begun < (1 + moment) * opening
        return written(run) == before or len(records(run)) < int(moment)

    try:
        while process.poll() is None and waiting():
            time.sleep(0.005)
        time.sleep(max(0, moment) % 1 * epoch)
        while aimed and process.poll() is None and not half_written(run):
            pass
    finally:
        process.kill()
    seconds = time.perf_counter() - begun
    _, said = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise LostError(f"the run ended with code {process.returncode} before it was killed: {said.strip()}")
    when = {"moment": round(moment, 2), "aimed at a write": aimed, "seconds": round(seconds, 3)}
    return when | left_behind(run, backend)


def half_written(run: Path) -> bool:
    """Whether a checkpoint is being written, or was written when the process died."""
    return any((run / "checkpoints").glob(".step-*"))


def left_behind(run: Path, backend: str) -> dict[str, Any]:
    """Check that a killed run's checkpoints are whole; without one, that resuming is refused."""
    checkpoints = list_checkpoints(run)
    try:
        positions = [load_checkpoint(path).header.position for path in checkpoints]
    except ResNetXFError as error:
        raise LostError(f"a checkpoint is damaged: {error}") from None
    if not positions:
        refused = start(run, backend, resume=True)
        _, said = refused.communicate()
        if refused.returncode != 2 or not ("no such folder" in said or "holds no run" in said):
            raise LostError(f"no checkpoint, yet resuming ended with code {refused.returncode}: {said.strip()}")
    return {
        "epochs": positions[-1].epoch if positions else None,
        "whole checkpoints": len(positions),
        "epochs in metrics": len(records(run)),
        "half a checkpoint beside": half_written(run),
    }


def same(ours: Weights, theirs: Weights) -> bool:
    """Whether two sets of arrays have the same bits."""
    return ours.keys() == theirs.keys() and all(same_bits(ours[name], theirs[name]) for name in ours)


def untimed(run: Path) -> list[EpochRecord]:
    """A run's records with their times set to 0."""
    return [msgspec.structs.replace(record, seconds=0.0, images_per_second=0.0) for record in records(run)]


def measure(backend: str, folder: Path, kills: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train one run without a stop and one with kills, and compare them."""
    whole, broken = folder / f"{backend}-whole", folder / f"{backend}-killed"
    draw, early = random.Random(seed), int(kills * EARLY)
    result: dict[str, Any] = {"holds": False, "kills": []}
    try:
        opened, ended = left_alone(whole, backend)
        result |= {"seconds to the first checkpoint": round(opened, 3), "seconds to the end": round(ended, 3)}
        moments = [draw.uniform(-1, 0) for _ in range(early)]
        moments += [draw.uniform(0, epochs - 1) for _ in range(kills - early)]
        for number, moment in enumerate(sorted(moments)):
            aimed = moment > 0 and number % 2 == 1
            result["kills"].append(kill(broken, backend, moment, aimed, opened, (ended - opened) / epochs))
        finish(start(broken, backend, resume=bool(list_checkpoints(broken))))
        ours, theirs = load_checkpoint(broken), load_checkpoint(whole)
    except (LostError, ResNetXFError) as lost:
        return result | {"lost": str(lost)}
    result["the same to the bit"] = {
        "weights": same(ours.weights, theirs.weights),
        "momentum": len(ours.velocity) > 0 and same(ours.velocity, theirs.velocity),
        "metrics": len(records(whole)) == epochs and untimed(broken) == untimed(whole),
        "position": ours.header.position == theirs.header.position,
    }
    result["holds"] = all(result["the same to the bit"].values())
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backends", default="torch,mxnet")
    parser.add_argument("--kills", type=int, default=10, help="how often to kill each backend's run")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for every run
    names = options.backends.split(",")
    arguments = [f"--{name}={getattr(options, name)}" for name in ("backends", "kills", "epochs", "seed")]
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/kill_and_resume.py", *arguments]),
        "environment": environment()
        | {name: get_backend(name).version() for name in names}
        | {"cores": processors(), "OMP_NUM_THREADS": threads},
        "recipe": msgspec.to_builtins(recipe(options.epochs)),
        "backends": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spec.toml").write_text(SPEC.to_toml())
        (Path(folder) / "recipe.toml").write_text(recipe(options.epochs).to_toml())
        for name in names:
            found = measure(name, Path(folder), options.kills, options.epochs, options.seed)
            result["backends"][name] = found
            print(f"{name}: {'nothing is lost' if found['holds'] else 'LOST'} by {len(found['kills'])} kills")
            for key, value in found.items():
                for line in value if isinstance(value, list) else [f"{key}: {value}"]:
                    print(f"  {line}")
    write_results(options.out / "kill_and_resume.json", result)
    sys.exit(not all(found["holds"] for found in result["backends"].values()))


if __name__ == "__main__":
    main()
