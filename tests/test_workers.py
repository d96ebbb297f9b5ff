import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from resnet_xf import load_dataset
from resnet_xf.checkpoint import load_checkpoint
from resnet_xf.recipe import Schedule
from resnet_xf.training import train
from resnet_xf.workers import free_port
from runs import RECIPE, TINY

COMMAND = [sys.executable, "-m", "resnet_xf", "train"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "resnet_xf",
    "train",
]

# Batch statistics are each worker's own, so norms use the running ones here. 1438 images are nine batches of 144 and one
# of 142, in which each worker has 71.
FROZEN = msgspec.structs.replace(
    RECIPE, name="frozen", epochs=1, batch_size=144, schedule=Schedule(warmup_epochs=0.5), precision="float64", freeze_statistics=True
)  # fmt: skip


def files(folder: Path, recipe=FROZEN) -> list[str]:
    """Arguments that name a spec and a recipe written into a folder."""
    (folder / "spec.toml").write_text(TINY.to_toml())
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return [str(folder / "spec.toml"), "--recipe", str(folder / "recipe.toml"), "--device", "cpu"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@pytest.mark.parametrize(
    "backend, start, workers", [("torch", TORCHRUN, []), ("mxnet", COMMAND, ["--workers", "2"])], ids=["torchrun", "kvstore"]
)  # fmt: skip
def test_two_processes_train_as_one_does_with_the_whole_batch(backend: str, start, workers, tmp_path) -> None:
    arguments = [*files(tmp_path), "--backend", backend, "--out", str(tmp_path / "two"), *workers]
    done = subprocess.run([*start, *arguments], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    two = load_checkpoint(tmp_path / "two")
    one = train(TINY, load_dataset("digits"), FROZEN, backend=backend, device="cpu", out=tmp_path / "one")
    assert two.header.step == 10
    assert two.header.history[0].workers == 2
    for name, array in one.weights.items():
        np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-12)
    got, wanted = two.header.history[0], one.history[0]
    assert (got.train_accuracy, got.test_accuracy) == (wanted.train_accuracy, wanted.test_accuracy)
    assert got.train_loss == pytest.approx(wanted.train_loss, abs=1e-12)
    assert got.test_loss == pytest.approx(wanted.test_loss, abs=1e-12)


def children(parent: int) -> dict[int, str]:
    """The processes that one started, and their DMLC_ROLE or rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    variables = dict(v.split("=", 1) for v in (entry / "environ").read_text().split("\0") if "=" in v)
                    found[int(entry.name)] = variables.get("DMLC_ROLE") or f"rank {variables.get('RANK')}"
            except (OSError, ValueError):
                continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_a_worker_that_dies_ends_the_run_which_goes_on_from_its_checkpoint(backend: str, tmp_path) -> None:
    recipe = msgspec.structs.replace(FROZEN, epochs=10_000, batch_size=720)
    run = tmp_path / "run"
    arguments = [*files(tmp_path, recipe), "--backend", backend, "--out", str(run), "--workers", "2"]
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2)
        started = children(process.pid)
        victim = next(pid for pid, role in started.items() if role in ("worker", "rank 1"))
        os.kill(victim, signal.SIGKILL)
        _, complaint = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "Traceback" not in complaint
    last = complaint.strip().splitlines()[-1]
    assert "was killed by SIGKILL" in last
    assert f"`resnet-xf train --resume {run} --workers 2` goes on" in last
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert load_checkpoint(run).header.position.epoch >= 2


def test_a_worker_that_finds_nobody_gives_up_with_a_message(tmp_path) -> None:
    alone = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(free_port())}
    alone |= {"DMLC_NUM_SERVER": "1", "DMLC_NUM_WORKER": "2", "DMLC_NODE_HOST": "127.0.0.1"}
    arguments = [*files(tmp_path), "--backend", "mxnet", "--out", str(tmp_path / "run"), "--timeout", "1"]
    done = subprocess.run([*COMMAND, *arguments], env=environment() | alone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("no answer from the other workers for 1 s; has one died? Resume the run")


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
