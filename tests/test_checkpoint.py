import json
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import pi
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.runs import TINY
from resnet_xf import convert, draw_weights, get_backend, load_weights, plan, read_checkpoint, save_weights
from resnet_xf.architecture.spec import SPEC_KEY
from resnet_xf.architecture.weights import RUN_KEY, VELOCITY, Weights, all_weight_shapes, write_arrays
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.errors import CheckpointError, TrainingError
from resnet_xf.support.files import FOLDER, list_checkpoints
from resnet_xf.training.checkpoint import (
    Checkpoint,
    EpochRecord,
    Header,
    Position,
    clear_leftovers,
    load_checkpoint,
    save_checkpoint,
    write_metrics,
)
from resnet_xf.training.loop import Run
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe
from resnet_xf.training.runs import resume, train

SPEC = msgspec.structs.replace(TINY, image_size=(16, 16))
RECIPE = Recipe(
    name="brief",
    epochs=2,
    batch_size=16,
    optimizer=Optimizer(learning_rate=0.1, momentum=0.9),
    augmentation=Augmentation(mean=(0.0,), std=(1.0,)),
)
RECORD = EpochRecord(
    epoch=1,
    train_loss=0.1 + 0.2,
    train_accuracy=1 / 3,
    test_loss=5e-324,
    test_accuracy=1.0,
    learning_rate=float(np.float32(0.1)),
    images_per_second=pi * 1e5,
    seconds=1e-9,
    backend="torch",
    device="cpu",
    workers=1,
)
BACKENDS = ["torch", "mxnet"]
replace = msgspec.structs.replace


def checkpoint_of(epoch: int = 1, batch: int = 0, dtype: str = "float32", **changes: object) -> Checkpoint:
    """A run of 64 images, 4 steps an epoch."""
    weights = draw_weights(SPEC, seed=epoch, scheme="probe", dtype=dtype)
    velocity = draw_weights(SPEC, seed=epoch + 100, scheme="probe", dtype=dtype)
    velocity = {name: array for name, array in velocity.items() if "running_" not in name}
    header = Header(
        recipe=replace(RECIPE, precision=dtype),
        backend="torch",
        dataset="digits",
        train_digest="0",
        data_dir="/some/where",
        train_images=64,
        classes=tuple("0123456789"),
        mean=(1 / 7,),
        std=(0.3,),
        position=Position(epoch=epoch, batch=batch, loss=pi, correct=5, seen=16 * batch, seconds=1 / 9),
        history=tuple(replace(RECORD, epoch=number + 1) for number in range(epoch)),
    )
    return Checkpoint(SPEC, replace(header, **changes), weights, velocity)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits")
    return Dataset("digits", 1, whole.classes, whole.train.take(np.arange(64)), whole.test.take(np.arange(20)))


@pytest.fixture(params=BACKENDS)
def trained(request, tmp_path, digits) -> Run:
    """A finished run."""
    return train(SPEC, digits, RECIPE, backend=request.param, device="cpu", out=tmp_path / "run")


def same(one: Weights, other: Weights) -> bool:
    """To the bit."""
    alike = all(one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in one if n in other)
    return set(one) == set(other) and alike


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_comes_back_to_the_bit(tmp_path, dtype: str) -> None:
    kept = checkpoint_of(epoch=1, batch=3, dtype=dtype)
    path = save_checkpoint(tmp_path, kept, keep=3)
    assert path == tmp_path / FOLDER / "step-00000007.safetensors"
    for source in (path, tmp_path, str(path)):
        found = load_checkpoint(source)
        assert found.spec == SPEC
        assert found.header == kept.header
        assert same(found.weights, kept.weights)
        assert same(found.velocity, kept.velocity)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_run_without_momentum_has_no_velocity(tmp_path) -> None:
    kept = checkpoint_of()
    save_checkpoint(tmp_path, Checkpoint(SPEC, kept.header, kept.weights, {}), keep=1)
    assert load_checkpoint(tmp_path).velocity == {}


def test_a_seed_of_any_size_comes_back(tmp_path) -> None:
    header = replace(checkpoint_of().header, recipe=replace(RECIPE, seed=2**70 + 1))
    save_checkpoint(tmp_path, Checkpoint(SPEC, header, checkpoint_of().weights, {}), keep=1)
    assert load_checkpoint(tmp_path).header == header


def test_a_runs_own_checkpoint_holds_what_the_run_gave(trained: Run) -> None:
    found = load_checkpoint(trained.path)
    assert found.spec == trained.spec
    assert found.header.recipe == trained.recipe
    assert found.header.history == trained.history
    assert found.header.position == Position(epoch=2)
    assert same(found.weights, trained.weights)
    assert set(found.velocity) == {name for name in all_weight_shapes(SPEC) if "running_" not in name}


@pytest.mark.parametrize("images, drop_last, steps", [(64, False, 4), (65, False, 5), (65, True, 4), (15, True, 0)])
def test_steps_of_an_epoch(images: int, drop_last: bool, steps: int) -> None:
    header = checkpoint_of(epoch=2, batch=3).header
    header = replace(header, train_images=images, recipe=replace(RECIPE, drop_last=drop_last))
    assert header.steps_per_epoch == steps
    assert header.step == 2 * steps + 3


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_few_are_kept(tmp_path, keep: int) -> None:
    for epoch in range(4):
        save_checkpoint(tmp_path, checkpoint_of(epoch), keep)
    numbers = [int(path.stem.removeprefix("step-")) for path in list_checkpoints(tmp_path)]
    assert numbers == [0, 4, 8, 12][-keep:]
    assert load_checkpoint(tmp_path).header.position.epoch == 3


def test_a_run_keeps_as_many_as_asked(tmp_path, digits) -> None:
    train(SPEC, digits, replace(RECIPE, epochs=4), device="cpu", out=tmp_path / "run", keep=2)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [
        "step-00000012.safetensors",
        "step-00000016.safetensors",
    ]


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path) -> None:
    path = save_checkpoint(tmp_path, checkpoint_of(), keep=1)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        for source in (path, tmp_path):
            with pytest.raises(CheckpointError) as refused:
                load_checkpoint(source)
            assert str(refused.value).startswith(f"{path}: not readable as safetensors")
            assert "\n" not in str(refused.value)


def test_a_single_flipped_bit_anywhere_is_noticed(tmp_path) -> None:
    path = save_checkpoint(tmp_path, checkpoint_of(), keep=1)
    whole = path.read_bytes()
    for at in [*range(0, 2000, 37), *range(2000, len(whole), len(whole) // 50)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: [^\n]*$"):
            load_checkpoint(path)


def test_an_edited_header_is_noticed(tmp_path) -> None:
    path = save_checkpoint(tmp_path, checkpoint_of(), keep=1)
    whole = path.read_bytes()
    edited = whole.replace(rb"\"train_images\":64", rb"\"train_images\":46")
    assert edited != whole
    path.write_bytes(edited)
    with pytest.raises(CheckpointError, match="its digest does not fit its contents"):
        load_checkpoint(path)


ARRAYS = {
    "a weight missing": (lambda w: {n: a for n, a in w.items() if n != "fc.bias"}, r"missing: fc\.bias"),
    "a weight left over": (lambda w: w | {"fc.extra": w["fc.bias"]}, r"left over: fc\.extra"),
    "a weight of another shape": (lambda w: w | {"fc.bias": w["fc.bias"][1:]}, r"fc\.bias \(expected \(10,\), got \(9,\)\)"),
    "a velocity left over": (lambda w: w | {VELOCITY + "fc.extra": w["fc.bias"]}, r"left over: fc\.extra"),
    "a velocity of another shape": (lambda w: w | {VELOCITY + "fc.bias": w["fc.bias"][1:]}, r"fc\.bias \(expected"),
    "weights that lose digits": (lambda w: {n: a.astype(np.float64) for n, a in w.items()}, r"not exact in float32"),
}  # fmt: skip


@pytest.mark.parametrize("change, says", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, says: str) -> None:
    kept, path = checkpoint_of(), tmp_path / "c.safetensors"
    write_arrays(path, change(kept.weights), {SPEC_KEY: SPEC.to_json(), RUN_KEY: kept.header.to_json()})
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: [^\n]*{says}[^\n]*$"):
        load_checkpoint(path)


HEADERS = {
    "not JSON": (lambda h: "{", r"\$: "),
    "of another version": (lambda h: h.replace("{", '{"version":2,', 1), r"\$\.version: "),
    "with a malformed recipe": (lambda h: h.replace('"epochs":2', '"epochs":0'), r"\$\.recipe\.epochs: "),
    "without classes": (lambda h: re.sub(r'"classes":\[[^]]*\],', "", h), r"\$: [^\n]*`classes`"),
}


@pytest.mark.parametrize("change, says", HEADERS.values(), ids=HEADERS)
def test_a_header_that_makes_no_sense_is_named(tmp_path, change, says: str) -> None:
    kept, path = checkpoint_of(), tmp_path / "c.safetensors"
    write_arrays(path, kept.weights, {SPEC_KEY: SPEC.to_json(), RUN_KEY: change(kept.header.to_json())})
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: {says}"):
        load_checkpoint(path)


def test_a_folder_or_file_that_is_none_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(tmp_path))}: holds no run; expected .*step-"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.safetensors: No such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="none: no such folder"):
        resume(tmp_path / "none")


def test_plain_weights_are_no_run(tmp_path) -> None:
    path = tmp_path / FOLDER / "step-00000000.safetensors"
    path.parent.mkdir()
    save_weights(path, draw_weights(SPEC), SPEC)
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: holds weights but no training run"):
            load_checkpoint(source)
    with pytest.raises(CheckpointError, match="holds weights but no training run"):
        resume(tmp_path, device="cpu")


def test_what_a_killed_run_left_behind_is_never_read_and_is_cleared(tmp_path, digits) -> None:
    whole = train(SPEC, digits, RECIPE, device="cpu", out=tmp_path)
    last = list_checkpoints(tmp_path)[-1]
    leftovers = [last.with_name(f".step-000000{number}.safetensors.x{number}") for number in (10, 99)]
    leftovers[0].write_bytes(last.read_bytes()[:1000])
    leftovers[1].write_bytes(b"")
    assert list_checkpoints(tmp_path)[-1] == last
    assert load_checkpoint(tmp_path).header.history == whole.history
    other = tmp_path / FOLDER / ".keep"
    other.touch()
    clear_leftovers(tmp_path)
    assert not any(path.exists() for path in leftovers)
    assert other.exists()
    leftovers[0].write_bytes(b"half")
    resume(tmp_path, device="cpu", dataset=digits)
    assert not leftovers[0].exists()


def test_half_written_metrics_are_cleared_too(tmp_path, digits) -> None:
    train(SPEC, digits, RECIPE, device="cpu", out=tmp_path)
    left = tmp_path / ".metrics.jsonl.x1y2"
    left.write_bytes(b'{"epo')
    resume(tmp_path, device="cpu", dataset=digits)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", FOLDER, "metrics.jsonl"]


def test_a_runs_checkpoint_is_read_as_its_weights_alone(trained: Run, tmp_path) -> None:
    path = list_checkpoints(trained.path)[-1]
    spec, weights = load_weights(path)
    assert spec == SPEC
    assert same(weights, trained.weights)
    file = read_checkpoint(path)
    assert file.spec == SPEC
    assert same(file.tensors, trained.weights)
    for suffix in (".safetensors", ".pth", ".params"):
        done = convert(path, tmp_path / f"out{suffix}", SPEC if suffix == ".params" else None)
        assert done.spec == SPEC
        assert done.tensors == len(trained.weights)
    assert same(load_weights(tmp_path / "out.safetensors")[1], trained.weights)
    with pytest.raises(CheckpointError, match="holds weights but no training run"):
        load_checkpoint(tmp_path / "out.safetensors")
    state = read_checkpoint(tmp_path / "out.pth").tensors
    assert same(state, trained.weights)


def test_metrics_are_a_line_of_json_an_epoch(trained: Run) -> None:
    text = (trained.path / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [msgspec.convert(line, EpochRecord) for line in lines] == list(trained.history)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(set(line) == set(EpochRecord.__struct_fields__) for line in lines)
    assert all(0 <= line["test_accuracy"] <= 1 and line["images_per_second"] > 0 for line in lines)


def test_metrics_that_were_lost_are_written_again(tmp_path, digits) -> None:
    done = train(SPEC, digits, RECIPE, device="cpu", out=tmp_path)
    wanted = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(wanted[:-30])
    assert resume(tmp_path, device="cpu", dataset=digits).history == done.history
    assert (tmp_path / "metrics.jsonl").read_bytes() == wanted


def test_metrics_that_cannot_be_written_are_named(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written: [^\n]*$"):
        write_metrics(tmp_path, (RECORD,))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_whose_folder_is_a_file_is_named(tmp_path, digits) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match=r"file: cannot be a run's folder: File exists"):
        train(SPEC, digits, RECIPE, device="cpu", out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


@contextmanager
def limited(size: int) -> Iterator[None]:
    """A write beyond so many bytes of a file fails as on a full disk: after a part of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # else Python could keep a part of a module
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unfinished(run: Path) -> Path:
    """A whole run of digits, with an epoch more to go; its last checkpoint."""
    whole = load_dataset("digits")
    recipe = replace(RECIPE, batch_size=256, epochs=1)
    train(SPEC, whole, recipe, device="cpu", out=run)
    kept = load_checkpoint(run)
    longer = replace(kept.header, recipe=replace(recipe, epochs=2))
    return save_checkpoint(run, Checkpoint(kept.spec, longer, kept.weights, kept.velocity), keep=3)


@pytest.mark.parametrize("backend, share", [("torch", 0.5), ("mxnet", 0.99)])
def test_a_write_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path, command, backend: str, share: float) -> None:
    before = unfinished(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    get_backend(backend)  # its import may need files
    with limited(int(share * before.stat().st_size)):
        code, _, complaint = command("train", "--resume", tmp_path, "--device", "cpu", "--backend", backend)
    after = before.with_name("step-00000012.safetensors")
    assert code == 2
    assert re.fullmatch(
        rf"resnet-xf: {re.escape(str(after))}: cannot be written: [^\n]*File too large[^\n]*; free some disk space and resume the run\n",
        complaint,
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert load_checkpoint(tmp_path).header.position == Position(epoch=1)
    assert len(resume(tmp_path, device="cpu").history) == 2


@pytest.mark.parametrize("limit", [0, 100, 9000, 40_000])
def test_a_write_that_failed_can_be_done_again(tmp_path, limit: int) -> None:
    first = save_checkpoint(tmp_path, checkpoint_of(0), keep=1)
    wrong = pytest.raises(CheckpointError, match=r"step-00000004\.safetensors: cannot be written: ")
    with wrong, limited(limit):
        save_checkpoint(tmp_path, checkpoint_of(1), keep=1)
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert same(load_checkpoint(tmp_path).weights, checkpoint_of(0).weights)
    assert save_checkpoint(tmp_path, checkpoint_of(1), keep=1).name == "step-00000004.safetensors"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [1e12, 1e30])
def test_the_last_good_checkpoint_of_a_run_that_went_wrong_can_be_read(
    tmp_path, digits, backend: str, rate: float
) -> None:
    """One step an epoch: the loss is finite before it, and what is tested and saved after it is not always."""
    recipe = replace(RECIPE, epochs=4, batch_size=64, optimizer=Optimizer(learning_rate=rate))
    with pytest.raises(TrainingError, match="the last good checkpoint is ") as wrong:
        train(SPEC, digits, recipe, backend=backend, device="cpu", out=tmp_path, keep=1)
    named = re.search(r"the last good checkpoint is (\S+\.safetensors);", str(wrong.value))
    assert named
    found = load_checkpoint(named[1])
    assert all(np.isfinite(array).all() for array in found.weights.values())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        msgspec.json.decode(line, type=EpochRecord)


def test_the_network_of_a_checkpoint_is_planned_from_its_spec(tmp_path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(), keep=1)
    assert plan(load_checkpoint(tmp_path).spec) == plan(SPEC)


def test_a_damaged_checkpoint_s_message_names_the_one_before(tmp_path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, checkpoint_of(epoch), keep=3)
        *older, last = list_checkpoints(tmp_path)
        data = last.read_bytes()
        last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(CheckpointError) as refused:
            load_checkpoint(tmp_path)
        last.write_bytes(data)
        hint = f"; delete it to resume from {older[0]}" if older else ""
        assert str(refused.value).endswith(hint)
        assert ("delete it" in str(refused.value)) == bool(older)


def test_a_position_is_bounded_and_a_record_of_an_epoch_does_not_change() -> None:
    assert msgspec.json.decode(b'{"epoch": 1099511627776}', type=Position).epoch == 2**40
    with pytest.raises(msgspec.ValidationError, match="<= 1099511627776"):
        msgspec.json.decode(b'{"epoch": 1099511627777}', type=Position)
    with pytest.raises(AttributeError, match="immutable"):
        RECORD.epoch = 2
