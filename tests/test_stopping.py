"""Ctrl-C, SIGTERM, SIGKILL and closed pipes: the exit code, and that no file or process is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.processes import wait_for
from helpers.runs import RECIPE, TINY
from resnet_xf import draw_weights, save_weights
from resnet_xf.errors import CheckpointError, DataError
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import load_checkpoint
from resnet_xf.training.loop import Training
from resnet_xf.training.runs import resume, train

SECONDS = 90
PICTURES = 8


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start the command in a process whose temporary files are in ``tmp``, which is emptied by nobody else."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    save_weights(tmp_path / "w.safetensors", draw_weights(TINY), TINY)
    monkeypatch.chdir(tmp_path)
    started = []

    def begin(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "resnet_xf", *arguments],
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def left(folder: Path) -> list[str]:
    """All but what was there before the command."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "w.safetensors")


BEFORE = ["tiny.toml", "tmp"]
ENDLESS = ("bench", "tiny.toml", "--backend", "torch", "--preset", "eager", "--time", "600", "--batch", "2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_bench_leaves_nothing(start, tmp_path, number) -> None:
    process = start(*ENDLESS)
    wait_for(lambda: any((tmp_path / "tmp").rglob("*.output")))
    time.sleep(0.5)  # the process that measures starts now; it outlives a parent that is killed
    process.send_signal(number)
    code = process.wait(SECONDS)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: left(tmp_path) == BEFORE)


def test_a_capture_leaves_nothing(start, tmp_path) -> None:
    process = start("capture", "tiny.toml", "--backend", "torch", "--out", "evidence")
    wait_for(lambda: any(path.name.startswith(".evidence") for path in tmp_path.iterdir()))
    process.terminate()
    assert (process.wait(SECONDS), process.communicate()) == (143, ("", ""))
    assert left(tmp_path) == BEFORE


def test_a_conversion_leaves_nothing(command, tmp_path, monkeypatch) -> None:
    save = torch.save

    def save_and_stop(state: object, path: Path) -> None:
        save(state, path)
        assert left(tmp_path) == [path.name]
        os.kill(os.getpid(), signal.SIGTERM)

    save_weights(tmp_path / "w.safetensors", draw_weights(TINY), TINY)
    monkeypatch.setattr(torch, "save", save_and_stop)
    assert command("convert", tmp_path / "w.safetensors", tmp_path / "out.pth") == (143, "", "")
    assert left(tmp_path) == []


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_training_whose_reader_is_gone_saves_and_says_how_to_go_on(start, workers) -> None:
    """The first of several workers prints, so that it is the one that sees the closed pipe."""
    options = ("--epochs", "500", "--device", "cpu", "--image-size", "12", "--backend", "mxnet", *workers)
    process = start("train", "tiny.toml", "--out", "run", *options)
    assert process.stdout.readline().startswith("tiny on digits: ")
    process.stdout.close()
    assert process.wait(SECONDS) == 128 + signal.SIGPIPE
    (says,) = process.stderr.read().splitlines()
    step = load_checkpoint("run").header.step
    assert says.startswith(f"resnet-xf: stopped after step {step} of ")
    assert says.endswith("; go on with `resnet-xf train --resume run`")
    assert step > 0


@pytest.mark.parametrize("arguments", [("list",), ("show", "resnet152"), ("inspect", "w.safetensors", "--json")])
def test_a_closed_pipe_ends_quietly(start, arguments) -> None:
    process = start(*arguments)
    process.stdout.close()
    assert (process.wait(SECONDS), process.stderr.read()) == (128 + signal.SIGPIPE, "")


@pytest.fixture
def pictures(tmp_path) -> Path:
    for half in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "pictures" / half / name).mkdir(parents=True)
            for number in range(PICTURES):
                path = tmp_path / "pictures" / half / name / f"{number}.png"
                Image.new("L", (9, 9), 20 * number).save(path)
    return tmp_path / "pictures"


def begin(pictures: Path, out: Path, **changes):
    import msgspec

    recipe = msgspec.structs.replace(RECIPE, epochs=2, batch_size=4, **changes)
    recipe = msgspec.structs.replace(
        recipe, augmentation=msgspec.structs.replace(recipe.augmentation, mean=(0.0,), std=(1.0,))
    )
    spec = msgspec.structs.replace(TINY, in_channels=3, num_classes=2)
    return train(spec, f"folder:{pictures}", recipe, device="cpu", backend="torch", out=out)


@pytest.mark.parametrize("half", ["train", "test"])
def test_no_folder_is_made_if_the_first_images_cannot_be_read(pictures, tmp_path, half: str) -> None:
    whole = {path: path.read_bytes() for path in (pictures / half).rglob("*.png")}
    for path in whole:
        path.write_bytes(whole[path][:40])
    with pytest.raises(DataError, match="png: not readable as an image"):
        begin(pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for path in whole:
        path.write_bytes(whole[path])
    assert begin(pictures, tmp_path / "run").history[-1].epoch == 2


def test_an_image_that_cannot_be_read_later_loses_no_step(pictures, tmp_path) -> None:
    whole = begin(pictures, tmp_path / "whole")
    broken = pictures / "train" / "b" / "3.png"
    data = broken.read_bytes()
    broken.write_bytes(data[:40])
    steps = {}
    for seed in range(5, 9):  # in one of these orders, the image is not in the first batch
        with pytest.raises(DataError, match="png: not readable as an image") as error:
            begin(pictures, tmp_path / f"run{seed}", seed=seed)
        if (tmp_path / f"run{seed}").exists():
            steps[seed] = load_checkpoint(tmp_path / f"run{seed}").header.step
            assert f"; stopped after step {steps[seed]} of 8 " in str(error.value)
            assert str(error.value).endswith(f"go on with `resnet-xf train --resume {tmp_path / f'run{seed}'}`")
    assert steps
    assert any(steps.values())
    broken.write_bytes(data)
    for seed in steps:
        resumed = resume(tmp_path / f"run{seed}", device="cpu")
        assert resumed.history[-1].epoch == 2
        if seed == RECIPE.seed:
            assert all((resumed.weights[name] == array).all() for name, array in whole.weights.items())


def test_a_run_of_no_step_may_be_begun_anew_and_another_one_may_not(pictures, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_epoch", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(pictures, tmp_path / "run")
    assert [path.stem for path in list_checkpoints(tmp_path / "run")] == ["step-00000000"]
    assert begin(pictures, tmp_path / "run").history[-1].epoch == 2
    with pytest.raises(CheckpointError, match="run: holds a run already; go on with it by --resume"):
        begin(pictures, tmp_path / "run")
