"""The benchmarks of training run, small, and write what they say."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from resnet_xf import ResNetSpec, Stage, Stem

pytest.importorskip("resnet_xf_mxnet")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ResNetSpec(name="tiny", stem=Stem(kind="conv3", width=4), stages=(Stage(depth=1, channels=4),), num_classes=10)


def bench(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / script, "--backends=mxnet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_images(folder: Path) -> None:
    """Fashion-MNIST's files with random images: 128 to train on and 64 to test on."""
    draw = np.random.default_rng(0)
    for part, number in (("train", 128), ("t10k", 64)):
        images, labels = draw.integers(0, 256, (number, 28, 28), np.uint8), draw.integers(0, 10, number, np.uint8)
        for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def test_fashion_mnist_trains_once_and_draws_the_same_again(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    write_images(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    places = f"--runs={tmp_path / 'runs'}", "--data-dir", tmp_path, f"--out={tmp_path / 'out'}"
    arguments = f"--spec={tmp_path / 'tiny.toml'}", "--epochs=1", *places
    shown = bench("fashion_mnist.py", *arguments, "--", "--batch-size=64")
    assert "1 of 1" in shown
    result = json.loads((tmp_path / "out" / "fashion_mnist.json").read_text())
    run = result["backends"]["mxnet"]
    assert result["command"].startswith("python benchmarks/fashion_mnist.py")
    assert "data-dir" not in result["command"]
    assert result["recipe"]["batch_size"] == 64
    assert [record["epoch"] for record in run["records"]] == [1]
    assert run["wall seconds"] > run["records"][0]["seconds"]
    drawing = tmp_path / "out" / "fashion_mnist.png"
    first = drawing.read_bytes()
    drawing.unlink()
    assert bench("fashion_mnist.py", *arguments, "--plot-only").splitlines()[-2:] == shown.splitlines()[-2:]
    assert drawing.read_bytes() == first


def test_input_pipelines_are_compared() -> None:
    command = [sys.executable, BENCHMARKS / "data.py", "--smoke", "--readers=.rec, bytes"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines()]
    assert lines[0][1:] == ["1 thread, images/s", "2 threads", "processor ms per image |"]
    readers = {line[0].removeprefix("| "): [float(cell.removesuffix(" |")) for cell in line[1:]] for line in lines[2:]}
    ours = {"ours, .rec, bytes", "ours, bilinear, .rec, bytes"}
    assert set(readers) == ours | {"MXNet's ImageRecordIter, .rec, bytes"}
    assert all(min(cells) > 0 for cells in readers.values())


def test_a_killed_run_is_resumed_to_the_bit(tmp_path) -> None:
    assert "nothing is lost by 1 kills" in bench("kill_and_resume.py", "--kills=1", "--epochs=4", f"--out={tmp_path}")
    result = json.loads((tmp_path / "kill_and_resume.json").read_text())
    assert result["backends"]["mxnet"]["holds"]
    assert len(result["backends"]["mxnet"]["kills"]) == 1


def test_a_row_is_slower_if_no_run_of_it_is_as_fast_and_by_more_than_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from regression import slower

    assert slower({"before": [10, 12], "after": [9, 8]})
    assert slower({"before": [10, 12], "after": []})
    assert not slower({"before": [10, 12], "after": [9, 10]})
    assert not slower({"before": [100, 101], "after": [99, 97]})
    assert not slower({"before": [10, 12], "after": [12, 14]})


@pytest.mark.parametrize("script", ["full_ladder", "kinds_of_weights"])
def test_a_network_of_no_size_is_refused(script: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("sys.argv", [script, "resnet18", "resnet34"])
    with pytest.raises(SystemExit, match="^2$"):
        import_module(script).main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{script}: error: resnet34: choose from d2l_resnet18, resnet18, ")
