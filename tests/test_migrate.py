"""A checkpoint becomes a folder for PyTorch, with the proof."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import resnet_xf
from resnet_xf import ResNetSpec, Stage, Stem, draw_weights, get_backend
from resnet_xf.backend import registry
from resnet_xf.data import photographs
from resnet_xf.errors import DataError, WeightsError
from resnet_xf.formats import verify
from resnet_xf.formats.description import Description
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.ladder.capture import script
from resnet_xf.migration import Migration, folder, migrate

SPEC = ResNetSpec(
    name="small",
    num_classes=7,
    image_size=(32, 32),
    stem=Stem(kind="conv3", width=8),
    stages=(Stage(depth=1, channels=8), Stage(depth=2, channels=16, stride=2)),
)
FILES = {
    "weights.safetensors",
    "weights.pth",
    "weights.pth.json",
    "model.py",
    "model.pt2",
    "model.onnx",
    "preprocessing.json",
    "report.html",
}

ALONE = """
import sys
assert not any("resnet_xf" in path for path in sys.modules)
import numpy as np, torch
images = torch.from_numpy(np.load("images.npy"))
from model import ResNet
network = ResNet().eval()
network.load_state_dict(torch.load("weights.pth"))
graph = torch.export.load("model.pt2").module()
with torch.no_grad():
    np.savez("outputs.npz", model=network(images), pt2=graph(images), one=graph(images[:1]))
"""


@pytest.fixture(scope="module", autouse=True)
def exported_in_this_process() -> None:
    """Exported networks run in a real process."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as MXNet exports it."""
    mx = pytest.importorskip("resnet_xf_mxnet.numpy_compat").mx
    folder = tmp_path_factory.mktemp("gluon")
    network = resnet_xf.build(SPEC, "mxnet", weights=draw_weights(SPEC, 5, "probe"))
    network.hybridize()
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.export(str(folder / "net"))
    return folder / "net-0000.params"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def migrated(exported: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Migration:
    return migrate(exported, tmp_path_factory.mktemp("out") / "net", images=images, keep_softmax=True)


def test_the_folder_holds_all_files_and_the_proof(migrated: Any) -> None:
    folder = Path(migrated.folder)
    assert {path.name for path in folder.iterdir()} == FILES | {"migration.json"} == {*migrated.files}
    assert migrated.proof is not None
    assert migrated.proof.startswith("the exported network ")
    assert migrated.proven
    assert [check.ours.partition(" ")[0] for check in migrated.checks] == [
        "ours",
        "model.py",
        "model.pt2",
        "model.onnx",
    ]
    assert max(check.error for check in migrated.checks) < 1e-5
    assert json.loads((folder / "migration.json").read_text())["ladder"] == migrated.ladder
    report = (folder / "report.html").read_text()
    assert "which gives what the exported network" in report
    assert re.search(
        r"resnet-xf migrate \S+net-0000\.params --level quick --out \S+ --images \S+ --keep-softmax<", report
    )


def test_both_files_of_weights_have_the_same_description(migrated: Any) -> None:
    folder = Path(migrated.folder)
    first, second = (read_checkpoint(folder / name) for name in ("weights.safetensors", "weights.pth"))
    assert first.description == second.description != Description()


def test_the_files_run_without_resnet_xf(migrated: Any, tmp_path: Path) -> None:
    shutil.copytree(migrated.folder, tmp_path, dirs_exist_ok=True)
    shown = photographs((32, 32)).astype(np.float32)
    np.save(tmp_path / "images.npy", shown)
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    backend = get_backend("mxnet")
    network = backend.build(resnet_xf.plan(SPEC).root, "float64")
    backend.load(network, draw_weights(SPEC, 5, "probe", "float64"))
    expected = backend.forward(network, shown)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for name in ("model", "pt2", "one"):
            np.testing.assert_allclose(
                outputs[name], expected[: len(outputs[name])], rtol=0, atol=1e-5 * abs(expected).max()
            )
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: shown})
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_images_have_the_same_classes_before_and_after(migrated: Any) -> None:
    assert len(migrated.images) == 2
    for one in migrated.images:
        assert len(one.before) == 5
        assert [guess.label for guess in one.before] == [guess.label for guess in one.after]
        np.testing.assert_allclose(
            [guess.probability for guess in one.before], [guess.probability for guess in one.after], atol=1e-5
        )


def test_the_first_line_tells_what_was_proven(exported: Path, tmp_path: Path, command: Any) -> None:
    code, out, _ = command("migrate", str(exported), "--out", str(tmp_path / "out"))
    assert code == 0
    assert re.match(r"proven: \w+ gives what the exported network \S+net-symbol.json gives\n", out)
    assert "network.load_state_dict(torch.load(" in out


def test_without_a_graph_nothing_is_proven(exported: Path, tmp_path: Path, command: Any) -> None:
    alone = tmp_path / "alone.params"
    shutil.copy(exported, alone)
    shutil.copy(exported.with_name("net-symbol.json"), tmp_path / "other-symbol.json")
    with pytest.raises(WeightsError):  # MXNet's own names, which tell no network here
        migrate(alone, tmp_path / "out")
    state = {f"net.{name}": torch.from_numpy(array) for name, array in draw_weights(SPEC, 5).items()}
    torch.save(state | {"other.weight": torch.zeros(3)}, tmp_path / "w.pth")
    (tmp_path / "small.toml").write_text(SPEC.to_toml())
    options = ("--spec", tmp_path / "small.toml", "--prefix", "net.")
    code, out, _ = command("migrate", tmp_path / "w.pth", "--out", tmp_path / "out", *options)
    assert code == 3
    assert out.startswith("not proven: the file has no graph, so the original was not run; ")
    report = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"--out \S+ --spec \S*small\S* --prefix net\.<", report)  # the command that made it


def test_without_mxnet_the_graph_is_read_and_nothing_is_proven(
    exported: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_mxnet(monkeypatch)
    code, out, _ = command("migrate", str(exported), "--out", str(tmp_path / "out"))
    assert code == 3
    assert out.startswith("not proven: MXNet is not installed, so ")
    assert "capture-script" in out.splitlines()[0]


def test_evidence_proves_it_without_mxnet(
    exported: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = tmp_path / "evidence.npz"
    symbol = exported.with_name("net-symbol.json")
    words = [symbol, exported, "--shape", "3,32,32", "--batch", 2, "--out", evidence]
    assert script.main([*map(str, words)]) == 0
    without_mxnet(monkeypatch)
    code, out, _ = command("migrate", str(exported), "--out", str(tmp_path / "out"), "--against", str(evidence))
    assert code == 0
    assert re.match(r"proven: \w+ gives what the original recorded in \S+evidence.npz gives\n", out)


def without_mxnet(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = registry.is_installed
    for module in (registry, resnet_xf.formats.convert, verify, folder):
        monkeypatch.setattr(module, "is_installed", lambda name: name != "mxnet" and installed(name))


@pytest.mark.parametrize(("status", "code"), [("inconclusive", 3), ("fail", 1)])
def test_a_rung_that_does_not_hold_proves_nothing(
    exported: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    def report(*arguments: Any, **options: Any) -> Any:
        done = resnet_xf.parity(*arguments, **options)
        last = msgspec.structs.replace(done.rungs[-1], status=status, value=1.0, bound=0.5)
        return msgspec.structs.replace(done, rungs=(*done.rungs[:-1], last))

    monkeypatch.setattr(folder, "parity", report)
    got, out, _ = command("migrate", str(exported), "--level", "quick", "--out", str(tmp_path / "out"))
    assert got == code
    assert out.startswith(f"not proven: a rung of the parity report {'fails' if code == 1 else 'is inconclusive'}; ")


def test_an_image_that_cannot_be_read_is_told_before_the_long_steps(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"no image")
    steps: list[int] = []
    with pytest.raises(DataError, match="cat.png"):
        migrate(
            exported,
            tmp_path / "out",
            images=[tmp_path / "cat.png"],
            on_step=lambda done, total, what: steps.append(done),
        )
    assert steps == [0]


def test_nothing_is_left_of_a_migration_that_fails(exported: Path, tmp_path: Path, command: Any) -> None:
    shutil.copy(exported, tmp_path / "net-0000.params")
    graph = exported.with_name("net-symbol.json").read_text()
    (tmp_path / "net-symbol.json").write_text(graph.replace('"Convolution"', '"Deconvolution"', 1))
    code, _, complaint = command("migrate", str(tmp_path / "net-0000.params"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "Deconvolution" in complaint
    assert {path.name for path in tmp_path.iterdir()} == {"net-0000.params", "net-symbol.json"}


def test_a_value_beyond_float32_is_named(tmp_path: Path) -> None:
    weights = draw_weights(SPEC, 5, "probe", "float64")
    weights["bn1.running_var"][0] = 1e39
    resnet_xf.save_weights(tmp_path / "w.safetensors", weights, SPEC)
    with pytest.raises(WeightsError, match=r"bn1\.running_var has the value 1e\+39, and float32 ends at 3\.403e\+38"):
        migrate(tmp_path / "w.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(WeightsError, match="is there already"):
        migrate(exported, tmp_path)
