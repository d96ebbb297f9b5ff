import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from threading import Thread

import msgspec
import numpy as np
import pytest
from PIL import Image

from helpers.processes import children, wait_for
from helpers.runs import RECIPE, TINY
from resnet_xf import get_backend, load_dataset
from resnet_xf.backend import workers
from resnet_xf.backend.workers import free_port
from resnet_xf.data import Batches
from resnet_xf.data.transform import Transform
from resnet_xf.training.checkpoint import load_checkpoint
from resnet_xf.training.recipe import Augmentation, Schedule
from resnet_xf.training.runs import train

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


def test_two_processes_of_torchrun_train_as_one_does_with_the_whole_batch(tmp_path) -> None:
    arguments = [*TORCHRUN, *files(tmp_path), "--backend", "torch", "--out", str(tmp_path / "two")]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_trained_as_by_one_process(tmp_path / "two", "torch")


def test_two_workers_train_as_one_process_does_with_the_whole_batch(command, tmp_path) -> None:
    arguments = [*files(tmp_path), "--backend", "mxnet", "--out", tmp_path / "two", "--workers", 2]
    code, _, complaint = command("train", *arguments)
    assert (code, complaint) == (0, "")
    assert_trained_as_by_one_process(tmp_path / "two", "mxnet")


def assert_trained_as_by_one_process(run: Path, backend: str) -> None:
    two = load_checkpoint(run)
    one = train(TINY, load_dataset("digits"), FROZEN, backend=backend, device="cpu")
    assert two.header.step == 10
    assert two.header.history[0].workers == 2
    for name, array in one.weights.items():
        np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-12)
    got, wanted = two.header.history[0], one.history[0]
    assert (got.train_accuracy, got.test_accuracy) == (wanted.train_accuracy, wanted.test_accuracy)
    assert got.train_loss == pytest.approx(wanted.train_loss, abs=1e-12)
    assert got.test_loss == pytest.approx(wanted.test_loss, abs=1e-12)


STOPPED_AND_RESUMED = """
import os, pathlib, signal, sys
from resnet_xf import Recipe, ResNetSpec, evaluate, load_dataset, resume, train
from resnet_xf.errors import TrainingStopped

folder, backend = pathlib.Path(sys.argv[1]), sys.argv[2]
settings = {"backend": backend, "device": "cpu"}

def stop_at_step_5(at):
    if at.step == 5 and at.record is None:
        os.kill(os.getpid(), signal.SIGTERM)

try:
    spec, recipe = ResNetSpec.read(folder / "spec.toml"), Recipe.read(folder / "recipe.toml")
    train(spec, "digits", recipe, out=folder / "two", callback=stop_at_step_5, **settings)
except TrainingStopped as stopped:
    message = str(stopped)
run = resume(folder / "two", device="cpu")
found = evaluate(folder / "two", **settings)  # each worker by itself
if run.first:
    (folder / "told").write_text(f"{message}\\n{found.accuracy}")
"""


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_workers_asked_to_stop_do_so_at_one_step_and_lose_nothing(backend: str, tmp_path) -> None:
    files(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(STOPPED_AND_RESUMED)
    roles = get_backend(backend).roles(2)
    started = {
        role: subprocess.Popen([sys.executable, script, tmp_path, backend], env=environment() | role.environment)
        for role in roles
    }
    try:
        for role, process in started.items():
            if role.trains:
                process.wait(60)
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    one = train(TINY, load_dataset("digits"), FROZEN, backend=backend, device="cpu")
    two = load_checkpoint(tmp_path / "two")
    for name, array in one.weights.items():
        np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-12)
    got, wanted = two.header.history[0], one.history[0]
    assert (got.train_accuracy, got.test_accuracy) == (wanted.train_accuracy, wanted.test_accuracy)
    assert got.train_loss == pytest.approx(wanted.train_loss, abs=1e-12)
    message, accuracy = (tmp_path / "told").read_text().splitlines()
    assert re.match(r"stopped after step [56] of 10 \(epoch 1 of 1\); go on with `resnet-xf train --resume ", message)
    assert float(accuracy) == wanted.test_accuracy


def test_a_mistake_is_told_once_and_before_any_worker_is_started(command, tmp_path) -> None:
    for wrong in (["--dataset", "nope"], ["--in-channels", "3"], ["--image-size", "0"]):
        arguments = [*files(tmp_path), "--backend", "torch", "--out", str(tmp_path / "run"), "--workers", "2", *wrong]
        code, _, complaint = command("train", *arguments)
        assert code == 2
        assert "Traceback" not in complaint
        assert "worker" not in complaint
        assert not (tmp_path / "run").exists()


def test_workers_that_cannot_meet_say_so(command, monkeypatch, tmp_path) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2"}
    unanswered = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    server = {"DMLC_PS_ROOT_URI": "127.0.0.1"}
    for backend, variables, says in (
        ("torch", alone, "cannot meet the others"),
        ("torch", unanswered, "cannot meet the others"),
        ("mxnet", server | {"DMLC_ROLE": "worker"}, "need DMLC_PS_ROOT_PORT, DMLC_NUM_SERVER, DMLC_NUM_WORKER"),
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            arguments = [*files(tmp_path), "--backend", backend, "--out", str(tmp_path / "run"), "--timeout", "1"]
            code, _, complaint = command("train", *arguments)
        assert code == 2
        assert "Traceback" not in complaint
        assert says in complaint
    done = subprocess.run(  # MXNet is not even imported
        [*COMMAND, *files(tmp_path), "--backend", "mxnet", "--out", str(tmp_path / "run")],
        env=environment() | server | {"DMLC_ROLE": "wrker"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "DMLC_ROLE is 'wrker'; expected worker, server or scheduler" in done.stderr


def role(pid: int) -> str:
    """A process's DMLC_ROLE, or its rank."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    found = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    return found.get("DMLC_ROLE") or f"rank {found.get('RANK')}"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_a_worker_that_dies_ends_the_run_which_goes_on_from_its_checkpoint(
    backend: str, command, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.5)
    recipe = msgspec.structs.replace(FROZEN, epochs=10_000, batch_size=720)
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    others = children(os.getpid())
    started: list[int] = []

    def kill_a_worker() -> None:
        try:
            wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
        finally:
            started.extend(pid for pid in children(os.getpid()) if pid not in others)
            os.kill(next(pid for pid in started if role(pid) in ("worker", "rank 1")), signal.SIGKILL)

    (killer := Thread(target=kill_a_worker)).start()
    arguments = [*files(tmp_path, recipe), "--backend", backend, "--out", run, "--workers", 2]
    code, _, complaint = command("train", *arguments)
    killer.join()
    assert code == 2
    assert complaint.count("\n") == 1
    assert complaint.count("was killed by SIGKILL") == 1  # the processes that are ended because of it are not told
    assert f"`resnet-xf train --resume {run} --workers 2` goes on" in complaint
    assert len(started) == {"torch": 2, "mxnet": 4}[backend]
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert load_checkpoint(run).header.position.epoch >= 2


def test_an_image_that_a_worker_cannot_read_ends_all_at_one_step_and_loses_none(command, monkeypatch, tmp_path) -> None:
    """The workers agree on it by :meth:`Learner.total`, which is tried above with both backends."""
    monkeypatch.setattr(workers, "GRACE", 60)  # no process is waited for that does not end by itself
    for half, name, number in product(("train", "test"), "ab", range(8)):
        path = tmp_path / "pictures" / half / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 20 * number).save(path)
    augmentation = Augmentation(crop="resize", mean=(0.0,), std=(1.0,))
    recipe = msgspec.structs.replace(FROZEN, batch_size=4, augmentation=augmentation)
    pictures, run = f"folder:{tmp_path / 'pictures'}", tmp_path / "run"
    arguments = [*files(tmp_path, recipe), "--num-classes", 2, "--in-channels", 3, "--dataset", pictures]
    arguments += ["--backend", "mxnet", "--out", run, "--workers", 2]
    data = load_dataset(pictures)
    transform = Transform((12, 12), 3, "resize", mean=(0.0,), std=(1.0,))
    batches = [*Batches(data.train, transform, 4, seed=recipe.seed, rank=1, workers=2, threads=1)]
    index = int(batches[-1].indices[0])  # the other worker's share of the last batch
    path = tmp_path / "pictures" / "train" / "ab"[index // 8] / f"{index % 8}.png"
    path.write_bytes(path.read_bytes()[:40])
    began = time.monotonic()
    code, _, complaint = command("train", *arguments)
    assert time.monotonic() < began + 60
    assert code == 2
    assert complaint.count("\n") == 1
    assert f"{path.name}: not readable as an image" in complaint
    other = "another worker could not read an image of its share; stopped after step 3 of 4 (epoch 1 of 1); go on"
    assert other in complaint
    assert "killed" not in complaint
    assert load_checkpoint(run).header.step == 3


def test_a_worker_that_finds_nobody_gives_up_with_a_message(tmp_path) -> None:
    alone = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(free_port())}
    alone |= {"DMLC_NUM_SERVER": "1", "DMLC_NUM_WORKER": "2", "DMLC_NODE_HOST": "127.0.0.1"}
    arguments = [*files(tmp_path), "--backend", "mxnet", "--out", str(tmp_path / "run"), "--timeout", "1"]
    done = subprocess.run([*COMMAND, *arguments], env=environment() | alone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("no answer from the other workers for 1 s; has one died? Resume the run")
