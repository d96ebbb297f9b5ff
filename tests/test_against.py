"""Captures: written on one backend, compared with the other or with each other, and what is refused."""

import errno
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from helpers.runs import RECIPE, TINY
from helpers.sabotage import Bare, Saboteur, only
from mutants.learning import steeper
from resnet_xf import (
    Report,
    ResNetSpec,
    capture,
    convert,
    draw_weights,
    get_recipe,
    load_dataset,
    parity,
    parity_against,
    plan,
)
from resnet_xf.architecture.spec import SPEC_KEY
from resnet_xf.architecture.weights import write_arrays
from resnet_xf.architecture.zoo import ZOO
from resnet_xf.errors import BackendError, CheckpointError, DataError, EvidenceError, ResNetXFError, WeightsError
from resnet_xf.ladder.accuracy import study
from resnet_xf.ladder.capture.evidence import manifest_digest, read_manifest
from resnet_xf.ladder.climb import live_sides
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.ladder.short_run import CURVE
from resnet_xf.ladder.sketch import CHUNKS, sketch
from resnet_xf.training.checkpoint import save_checkpoint
from resnet_xf.training.runs import prepare
from resnet_xf_mxnet.numpy_compat import mx

SMALL = {"image_size": (16, 16)}
TRIAL = Trial(recipe=msgspec.structs.replace(RECIPE, epochs=1, batch_size=128), seeds=2, margin=60.0)


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> dict[str, Path]:
    """One of each backend."""
    folder = tmp_path_factory.mktemp("captures")
    for backend in ("torch", "mxnet"):
        capture(TINY, folder / backend, backend, precisions=["bfloat16"], **SMALL)
    return {backend: folder / backend for backend in ("torch", "mxnet")}


@pytest.fixture(scope="module")
def direct() -> Report:
    """Of both backends, without a capture."""
    return parity(TINY, precisions=["bfloat16"], **SMALL)


@pytest.mark.parametrize("backend, other", [("torch", "mxnet"), ("mxnet", "torch")])
def test_a_capture_is_compared_with_the_other_backend(captures, direct, backend: str, other: str) -> None:
    report = parity_against([captures[backend]])
    assert report.holds, report.verdict()
    assert set(report.backends) == {backend, other}
    assert [rung.number for rung in report.rungs] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert report.rungs[5].name == "forward bfloat16"
    for ours, theirs in zip(report.rungs, direct.rungs, strict=True):
        assert ours.value == pytest.approx(
            theirs.value, rel=9, abs=1e-15
        )  # other sides lead, and sketches are compared
    assert [layer.own is None for layer in report.layers] == [False] * len(report.layers)


def test_two_captures_are_compared_with_no_backend(captures, direct) -> None:
    report = parity_against(list(captures.values()))
    assert report.holds, report.verdict()
    assert all(layer.own is None for layer in report.layers)
    assert report.rungs[3].value == pytest.approx(direct.rungs[3].value)


def test_a_capture_is_compared_with_the_backend_it_is_of(captures) -> None:
    report = parity_against([captures["torch"]], ["torch"])
    assert set(report.backends) == {"torch", f"torch of {captures['torch']}"}
    assert all(rung.status == "pass" for rung in report.rungs)
    assert not any(rung.value for rung in report.rungs[:4])


def test_one_capture_needs_no_list_and_no_backends_mean_the_default(captures) -> None:
    path = captures["torch"]
    for one in (path, str(path), [path]):
        report = parity_against(one, [], level="quick")
        assert report.holds, report.verdict()
        assert set(report.backends) == {"torch", "mxnet"}
    with pytest.raises(EvidenceError, match="^name a capture: a folder that `resnet-xf capture` wrote, or an evidence"):
        parity_against([])


def test_one_evidence_file_needs_no_list(tmp_path) -> None:
    (tmp_path / "evidence.npz").touch()
    for path in (tmp_path / "evidence.npz", str(tmp_path / "evidence.npz")):
        with pytest.raises(EvidenceError, match=r"evidence\.npz: holds no weights; name a file of them"):
            parity_against(path)


@pytest.mark.parametrize(
    "planted, rung, where",
    [
        ({"node": only("layer2.0.conv1", bias=True)}, "shapes", "layer2.0.conv1"),
        ({"node": only("layer1.0.bn1", eps=1e-3), "tells": False}, "forward float64", "layer1.0.bn1"),
        ({"node": only("layer1.0.bn1", momentum=0.2), "tells": False}, "gradients", "layer1.0.bn1"),
    ],
)
def test_a_defect_on_either_side_is_found_at_its_layer(captures, tmp_path, planted, rung: str, where: str) -> None:
    report = parity_against([captures["mxnet"]], [Saboteur("torch", **planted)])
    assert (report.failure.name, report.failure.where) == (rung, where)
    if rung != "shapes":  # such a network takes no weights, so that nothing can be captured
        capture(TINY, tmp_path / "broken", Saboteur("mxnet", **planted), **SMALL)
        report = parity_against([tmp_path / "broken"], ["torch"])
        assert (report.failure.name, report.failure.where) == (rung, where)


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """Rung 10 trains its runs here, one after the other; ``test_study`` has their processes."""

    def train_all(runs, jobs, callback) -> None:
        for run in runs:
            study.work(run.job, SimpleNamespace(send=lambda message, droppable: None))
            run.read_progress()

    monkeypatch.setattr(study, "_train_all", train_all)


def test_learning_curves_and_accuracies_are_captured(tmp_path, in_this_process, monkeypatch) -> None:
    monkeypatch.setitem(CURVE, "steps", 8)  # where there would be 40
    for backend in ("torch", "mxnet"):
        capture(TINY, tmp_path / backend, backend, level="full", trial=TRIAL, **SMALL)
    report = parity_against([tmp_path / "torch", tmp_path / "mxnet"], trial=TRIAL)
    assert [rung.status for rung in report.rungs] == ["pass"] * 10, report.verdict()
    assert report.accuracy.accuracies["mxnet"] == read_manifest(tmp_path / "mxnet").trial.accuracies
    assert len(report.curves.losses["torch"]) == 8

    for backend in ("torch", "mxnet"):
        rewrite(tmp_path / backend, lambda data: data["evidence"]["accuracy"].update(accuracies=[10.0, 20.0]))
    failure = parity_against([tmp_path / "torch", tmp_path / "mxnet"], trial=TRIAL).failure
    assert failure.where == "the accuracies"
    assert failure.detail.startswith("nothing learnt: mxnet − torch = +0.00 points")
    assert "always naming the commonest class gives 10.31%, so train longer" in failure.detail


def test_accuracies_of_another_backend_than_the_installed_one_of_its_name_are_refused(tmp_path) -> None:
    with pytest.raises(BackendError, match="which know no 'torch' but the installed one; leave the trial out"):
        capture(TINY, tmp_path / "here", Saboteur("torch"), level="quick", trial=TRIAL, **SMALL)
    assert not any(tmp_path.iterdir())


def test_the_recipe_that_was_captured_may_be_named(captures, tmp_path, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = get_recipe("digits").to_complete_json()
    trained = {"dataset": "digits", "recipe": recipe, "accuracies": [90.0, 91.0], "commonest": 10.0}
    for backend, folder in captures.items():
        shutil.copytree(folder, backend)
        rewrite(Path(backend), lambda data: data["evidence"].update(accuracy=trained))
    two = ("parity", "--against", "torch", "--against", "mxnet", "--level", "quick")
    code, out, err = command(*two, "--recipe", "digits")
    assert (code, err) == (0, "")
    assert "equivalent: mxnet" in out
    code, _, err = command(*two, "--recipe", "d2l")
    assert (code, err.strip()) == (2, "resnet-xf: torch: accuracies were captured of another recipe; leave that out")


def test_accuracies_that_one_capture_lacks_are_told_at_once(captures, tmp_path, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = {"dataset": "digits", "recipe": get_recipe("digits").to_complete_json(), "commonest": 10.0}
    for backend, folder in captures.items():
        shutil.copytree(folder, backend)
        rewrite(Path(backend), lambda data: data.update(level="quick"))
    rewrite(Path("torch"), lambda data: data["evidence"].update(accuracy=trained | {"accuracies": [90.0, 91.0]}))
    two = ("parity", "--against", "torch", "--against", "mxnet")
    code, out, err = command(*two)
    assert (code, err) == (0, "")
    assert "accuracy" not in out
    code, _, err = command(*two, "--accuracy")
    assert (code, err) == (2, "resnet-xf: mxnet: holds no accuracies; capture again with --accuracy\n")
    rewrite(Path("mxnet"), lambda data: data["evidence"].update(accuracy=trained | {"accuracies": [90.0] * 3}))
    code, _, err = command(*two)
    assert code == 2
    assert err == "resnet-xf: torch and mxnet cannot be compared; their accuracies differ in seeds\n"
    rewrite(Path("mxnet"), lambda data: data.update(cannot={"train": "mxnet cannot train"}))
    code, out, err = command(*two, "--accuracy")
    assert (code, err) == (0, "")
    assert "10 skipped: mxnet cannot train" in out


def test_a_capture_refuses_at_once_what_its_last_step_would(tmp_path) -> None:
    for says, options in {
        "no precision is called 'half'": {"precisions": ["half"]},
        "no data set is called 'typo'": {"trial": Trial(dataset="typo", recipe="digits")},
        "mxnet": {"precisions": ["float16"]},
    }.items():
        told: list[object] = []
        with pytest.raises(ResNetXFError, match=says):
            capture(TINY, tmp_path / "there", "mxnet", tell=lambda *a, told=told: told.append(a), **SMALL, **options)
        assert not told
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec, error, says",
    [
        (TINY, CheckpointError, "tiny-mxnet-seed0: holds another run: its recipe.epochs is 2, and 1 was asked for"),
        (
            msgspec.structs.replace(TINY, num_classes=5),
            DataError,
            r"tiny has 5 classes; choose another data set, a spec with num_classes = 10, or a comparison without acc",
        ),
    ],
)
def test_the_ladder_refuses_at_once_what_its_last_rung_would(tmp_path, spec, error, says: str) -> None:
    planned, data = plan(TINY), load_dataset("digits")
    begun = prepare(planned, data, msgspec.structs.replace(TRIAL.recipe, epochs=2), backend="mxnet", device="cpu")
    save_checkpoint(tmp_path / "tiny-mxnet-seed0", begun.start, keep=1)
    told: list[object] = []
    with pytest.raises(error, match=says):
        parity(spec, trial=replace(TRIAL, out=tmp_path), on_rung=lambda *a: told.append(a), **SMALL)
    assert not told


def test_a_disk_that_is_full_in_the_last_rung_is_no_difference(monkeypatch) -> None:
    def full(runs, jobs, callback) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(study, "_train_all", full)
    with pytest.raises(OSError, match="No space left"):
        parity(TINY, level="quick", trial=TRIAL, **SMALL)


def test_weights_given_are_captured_with_the_probe(tmp_path) -> None:
    weights = draw_weights(TINY, 3)
    capture(TINY, tmp_path / "here", "mxnet", weights=weights, level="quick", **SMALL)
    assert "also under weights that hide nothing" in parity_against([tmp_path / "here"]).rungs[3].detail
    assert parity_against([tmp_path / "here"], weights=weights).holds
    weights["fc.bias"][2] += 1
    with pytest.raises(EvidenceError, match=r"was captured with other weights; 1 of 32 arrays differ, first fc\.bias"):
        parity_against([tmp_path / "here"], weights=weights)


def test_one_network_of_several_in_a_file_is_captured(command, tmp_path) -> None:
    path, arrays = tmp_path / "two.safetensors", draw_weights(TINY, 3)
    both = {f"first.{name}": array for name, array in arrays.items()} | {"second.weight": np.zeros(3, np.float32)}
    write_arrays(path, both, {SPEC_KEY: TINY.to_json()})
    options = ("--backend", "torch", "--level", "quick", "--image-size", 16)
    code, _, err = command("capture", path, "--prefix", "first", "--out", tmp_path / "here", *options)
    assert (code, err) == (0, "")
    assert parity_against(tmp_path / "here", [], weights=path, prefix="first", level="quick").holds
    code, _, err = command("capture", path, "--out", tmp_path / "there", *options)
    assert (code, "follow no known layout" in err) == (2, True)


def rewrite(capture: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a capture's manifest says, with a digest to match."""
    path = capture / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data | {"digest": manifest_digest(data)}))


def changed(captures, tmp_path, **fields: object) -> Path:
    """A copy of a capture whose manifest says something else."""
    copy = tmp_path / "copy"
    shutil.copytree(captures["mxnet"], copy)
    rewrite(copy, lambda data: data.update(fields))
    return copy


def test_captures_of_different_levels_are_compared_as_far_as_both_reach(captures, tmp_path) -> None:
    capture(TINY, tmp_path / "quick", "torch", level="quick", **SMALL)
    report = parity_against([captures["mxnet"], tmp_path / "quick"])
    assert (report.level, report.holds, len(report.rungs)) == ("quick", True, 5)


def test_what_cannot_be_compared_is_refused_by_name(captures, tmp_path) -> None:
    with pytest.raises(
        EvidenceError, match=r"version 2 of this format, and this resnet-xf reads version 3; capture again"
    ):
        parity_against([changed(captures, tmp_path, version=2)])
    with pytest.raises(EvidenceError, match=r"is of tiny, and resnet18 was asked for; they differ in .*stages"):
        parity_against([captures["torch"]], spec="resnet18")
    renamed = msgspec.structs.replace(TINY, name="another")
    assert parity_against([captures["torch"]], spec=renamed, level="quick").holds  # a name computes nothing
    with pytest.raises(EvidenceError, match="is named twice"):
        parity_against([captures["torch"], captures["torch"]])
    with pytest.raises(EvidenceError, match="captured at level standard; capture again with --level full"):
        parity_against([captures["torch"]], level="full")
    with pytest.raises(EvidenceError, match="holds no accuracies; capture again with --accuracy"):
        parity_against([captures["torch"]], trial=TRIAL)
    with pytest.raises(EvidenceError, match="holds no capture; expected"):
        parity_against([tmp_path])
    with pytest.raises(EvidenceError, match="is there already"):
        capture(TINY, captures["torch"], "torch", **SMALL)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"seed": 1}, r"they differ in seed \(0 and 1\)|they differ in the weights' "),
        (
            {"spec": msgspec.structs.replace(TINY, name="other", num_classes=9)},
            r"they differ in spec \(tiny and other\)",
        ),
        ({"weights": True}, r"they differ in the weights' "),
        ({"images": True}, r"they differ in images"),
    ],
)
def test_captures_of_different_things_are_refused_by_name(captures, tmp_path, change, says: str) -> None:
    spec: ResNetSpec = change.get("spec", TINY)
    given = {
        "seed": change.get("seed", 0),
        "weights": draw_weights(spec, 1, "probe") if "weights" in change else None,
        "images": np.ones((2, 1, 16, 16), np.float32) if "images" in change else None,
        "image_size": None if "images" in change else (16, 16),
    }
    capture(spec, tmp_path / "other", "torch", level="quick", **given)
    with pytest.raises(
        EvidenceError, match=says if "weights" not in change else r"they differ in (probed|the weights')"
    ):
        parity_against([captures["mxnet"], tmp_path / "other"])


def test_gains_that_a_capture_tells_widen_no_bound_of_a_side_that_runs_here(captures, tmp_path) -> None:
    evidence = read_manifest(captures["mxnet"]).evidence
    raised = {name: gain * 1e9 for name, gain in evidence["sensitivity"].items()}
    copy = changed(captures, tmp_path, evidence=evidence | {"sensitivity": raised})
    failure = parity_against([copy], [Saboteur("torch", altered={"layer1.0.conv2": steeper})]).failure
    assert (failure.name, failure.where) == ("gradients", "layer1.0.conv2")


def test_a_damaged_capture_is_refused_by_name(captures, tmp_path) -> None:
    copy = changed(captures, tmp_path)
    path = max(copy.glob("arrays-*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(EvidenceError, match="is not what was captured; the file is damaged or was changed"):
        parity_against([copy])
    path.unlink()
    with pytest.raises(EvidenceError, match="copy the whole folder"):
        parity_against([copy])
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(EvidenceError, match=r"manifest\.json: is not what was captured; the file is damaged or was"):
        parity_against([copy])
    manifest.write_text("{")
    with pytest.raises(EvidenceError, match=r"manifest\.json: not readable"):
        parity_against([copy])


def test_a_capture_that_fails_leaves_nothing_behind(tmp_path) -> None:
    class Breaks(Saboteur):
        def learner(self, task):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        capture(TINY, tmp_path / "here", Breaks("torch"), **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_rungs_that_a_captured_backend_cannot_climb_are_skipped(tmp_path) -> None:
    capture(TINY, tmp_path / "here", Bare(), **SMALL)
    report = parity_against([tmp_path / "here"], ["mxnet"])
    assert [rung.status for rung in report.rungs] == ["pass"] * 5 + ["skip"] * 3
    assert report.verdict().endswith(
        "in inference (5 rungs hold; 6 skipped: bare cannot run layers alone; 7 to 8 skipped: bare cannot train)"
    )


def test_layers_are_captured_in_parts_that_fit_the_memory(tmp_path) -> None:
    class Counts(Saboteur):
        most = 0

        def watch(self, network, images, look, names=None):
            sizes = []

            def counted(name, inputs, output):
                sizes.extend(array.nbytes for array in (*inputs, output))
                look(name, inputs, output)

            super().__getattr__("watch")(network, images, counted, names)
            if names is not None:
                self.most = max(self.most, sum(sizes))

    bound = 800_000
    few, all_ = Counts("torch"), Counts("torch")
    assert parity(TINY, [few, "mxnet"], max_memory=bound, **SMALL).holds
    assert parity(TINY, [all_, "mxnet"], **SMALL).holds
    assert few.most <= bound < all_.most
    with pytest.raises(MemoryError, match=r"inputs and output of conv1 take .* MiB, and max_memory allows 0"):
        parity(TINY, max_memory=10_000, **SMALL)


def test_a_sketch_shows_any_change_and_is_the_same_everywhere() -> None:
    array = np.random.default_rng(0).standard_normal((50, 7, 3, 3))
    drawn = sketch("conv1.weight", array)
    assert drawn.shape == (CHUNKS,)
    assert np.abs(drawn).max() == pytest.approx(np.abs(array).max(), rel=0.9)
    for place in (0, 1234, array.size - 1):
        other = array.copy()
        other.flat[place] += 1
        change = np.abs(sketch("conv1.weight", other) - drawn).max() / (CHUNKS / array.size) ** 0.5
        assert 0.49 < change < 1.51
    swapped = array.copy()
    swapped.flat[[0, 4]] = array.flat[[4, 0]]
    assert np.abs(sketch("conv1.weight", swapped) - drawn).max() > 1e-4
    assert not np.array_equal(sketch("conv1.weight", array[::-1]), drawn)
    assert np.array_equal(sketch("a", array[0, 0]), array[0, 0])
    ones = sketch("conv1.weight", np.ones(6400))
    assert [round(float(x), 1) for x in ones[:3]] == [round(float(ones[0]), 1)] * 3


def test_commands(command, captures, tmp_path) -> None:
    spec = tmp_path / "tiny.toml"
    spec.write_text(TINY.to_toml())
    out = tmp_path / "evidence"
    code, told, _ = command("capture", spec, "--backend", "mxnet", "--out", out, "--level", "quick", "--image-size", 16)
    assert code == 0
    assert f"resnet-xf parity --against {out}" in told
    (tmp_path / "e.npz").touch()
    html, junit = tmp_path / "report.html", tmp_path / "report.xml"
    code, told, _ = command("parity", "--against", out, "--seed", 0, "--html", html, "--junit", junit)
    assert code == 0
    assert "are the same network in inference (5 rungs hold)" in told
    assert f"resnet-xf parity --against {out} --seed 0 --html" in html.read_text()
    assert 'tests="5"' in junit.read_text()
    code, told, _ = command("parity", spec, "--against", captures["torch"], "--against", captures["mxnet"], "--json")
    assert code == 0
    assert json.loads(told)["level"] == "standard"
    for arguments, says in (
        (
            ["--against", out, "--image-size", 32],
            "a capture brings its images, their size and precisions; leave out those options",
        ),
        (
            ["--against", out, "--seed", 1],
            "was made with seed 0, and 1 was asked for; leave out --seed, or capture",
        ),
        (["--against", tmp_path / "e.npz", "--seed", 0], "evidence of an original network has no seed; leave out"),
        (["resnet18", "--against", out], "is of tiny, and resnet18 was asked for"),
        (["--against", tmp_path / "e.npz", "--accuracy"], "e.npz: holds one training step; leave out --accuracy"),
        ([], "name a network"),
        ([spec, "--level", "high"], "no level is called 'high'; choose one of quick, standard, full"),
        ([spec, "--device", "cuda"], "have no cuda on this machine; choose --device cpu"),
        ([spec, "--precision", "tf32"], "tf32 on a GPU alone"),
        ([spec, "--html", tmp_path / "no" / "r.html"], "there is no folder"),
    ):
        code, told, wrong = command("parity", *arguments)
        assert (code, told) == (2, "")
        assert says in wrong
        assert wrong.count("\n") == 1
    code, told, _ = command("parity", spec, "--level", "quick", "--precision", "bfloat16", "--image-size", 16)
    assert code == 0
    assert "forward bfloat16" in told


def test_which_network_a_checkpoint_is_is_proven_or_called_a_guess(tmp_path, monkeypatch) -> None:
    few = {name: ZOO[name] for name in ("resnet18", "resnet18_v1", "resnet18_v2")}
    monkeypatch.setattr(importlib.import_module("resnet_xf.formats.identify"), "ZOO", few)
    network = mx.gluon.model_zoo.vision.resnet18_v1(classes=7)
    network.initialize(mx.init.Xavier())
    network.hybridize()
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.export(str(tmp_path / "mine"))
    params, symbol = tmp_path / "mine-0000.params", tmp_path / "mine-symbol.json"
    given = str(params), (32, 32), None, None, 0, None
    subject, weights, _ = subject_of(*given)
    assert subject.outline.name == "resnet18_v1"
    assert weights == f"from {params}, which gives what the exported network {symbol} gives"

    capture(str(params), tmp_path / "evidence", "mxnet", level="quick", image_size=(32, 32))
    convert(params, tmp_path / "mine.pth")
    report = parity_against([tmp_path / "evidence"], weights=tmp_path / "mine.pth")
    assert report.holds
    assert report.weights.endswith(f"as captured, which {tmp_path / 'mine.pth'} holds too")

    graph = symbol.read_text()
    assert '"relu"' in graph
    symbol.write_text(graph.replace('"relu"', '"softrelu"', 1))
    with pytest.raises(
        WeightsError, match=r"mine-symbol\.json: node .*relu0_fwd' \(Activation\): act_type is 'softrelu'"
    ):
        subject_of(*given)
    symbol.unlink()
    assumed = "; assumed from names and shapes: resnet18_v1, eps 1e-05, no dilation, inputs normalised outside"
    assert subject_of(*given)[1].endswith(assumed)
    assert "assumed" not in subject_of("resnet18_v1", (32, 32), None, params, 0, None)[1]


def test_accuracies_that_will_not_be_compared_are_not_prepared(tmp_path) -> None:
    report = parity(TINY, ["torch", "onnx"], level="quick", trial=replace(TRIAL, out=tmp_path / "runs"), **SMALL)
    assert report.rungs[-1].status == "skip"
    assert not (tmp_path / "runs").exists()


def test_a_gpu_is_used_by_the_backends_that_can_use_it() -> None:
    """MXNet lists why it cannot, in place of the device."""
    listed = (["cpu", "not cuda:0: this is MXNet's CPU build"], ["cpu", "cuda:0 (H100)"])
    both = [
        Saboteur(name, members={"devices": lambda real, devices=devices: lambda: devices})
        for name, devices in zip(("mxnet", "torch"), listed, strict=True)
    ]
    subject, *_ = subject_of(TINY, (12, 12), None, None, 0, None)
    assert [side.device for side in live_sides(subject, both, "cuda")] == ["cpu", "cuda"]
    with pytest.raises(BackendError, match="mxnet have no cuda on this machine"):
        live_sides(subject, both[:1], "cuda")


def test_few_images_of_your_own_take_the_recipe_that_train_takes(tmp_path) -> None:
    for number in range(2):
        for half, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
            path = tmp_path / half / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9)).save(path)
    assert Trial(dataset=f"folder:{tmp_path}").resolved() == get_recipe("small")
    assert Trial(dataset=f"folder:{tmp_path / 'elsewhere'}").resolved() == get_recipe("imagenet")
