import dataclasses
import inspect
import os
import shutil
import signal
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.mxnet_law import MxnetLaw
from helpers.narrow import narrowed
from helpers.runs import RECIPE, TINY, few_digits
from resnet_xf import draw_weights, get_spec
from resnet_xf.architecture.measures import same_bits
from resnet_xf.data.splits import FileSplit
from resnet_xf.errors import CheckpointError, DataError, RecipeError, TrainingError, TrainingStopped, WeightsError
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import Header, load_checkpoint
from resnet_xf.training.loop import Progress
from resnet_xf.training.recipe import Optimizer, Schedule, get_recipe
from resnet_xf.training.runs import prepare, resume, train

BACKENDS = ("torch", "mxnet")
STEPS = 18
replace = msgspec.structs.replace


def go(backend, recipe=RECIPE, network=TINY, data=None, **settings):
    return train(network, data or few_digits(), recipe, backend=backend, device="cpu", **settings)


def go_on(run, backend, **settings):
    return resume(run, backend=backend, device="cpu", dataset=few_digits(), **settings)


def stopping_at(step: int):
    def callback(progress) -> None:
        if progress.step == step and progress.record is None:  # a second signal would end the process
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_stopped_anywhere_goes_on_to_the_bit(backend: str, tmp_path) -> None:
    whole = go(backend)
    for step in (1, 6, 7, 16):  # in an epoch, at its end, at the next one's beginning, near the end
        run = tmp_path / str(step)
        with pytest.raises(TrainingStopped, match=r"stopped after step \d+ of 18 .*--resume"):
            go(backend, out=run, callback=stopping_at(step))
        assert load_checkpoint(run).header.step in (step, step + 1)
        again = go_on(run, backend)
        assert all(same_bits(again.weights[name], array) for name, array in whole.weights.items())
        for got, wanted in zip(again.history, whole.history, strict=True):
            assert (got.train_loss, got.train_accuracy) == (wanted.train_loss, wanted.train_accuracy)
            assert (got.test_loss, got.test_accuracy) == (wanted.test_loss, wanted.test_accuracy)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_goes_on_to_the_bit_from_each_of_its_checkpoints(backend: str, tmp_path) -> None:
    whole = go(backend, out=tmp_path / "whole", keep=9)
    paths = list_checkpoints(tmp_path / "whole")
    assert [path.name for path in paths] == [f"step-{step:08d}.safetensors" for step in (0, 6, 12, 18)]
    for path in paths[:3]:
        run = tmp_path / path.stem / "checkpoints"
        run.mkdir(parents=True)
        shutil.copy(path, run)
        again = go_on(run.parent, backend)
        assert all(same_bits(again.weights[name], array) for name, array in whole.weights.items())


def parted(first: str, second: str, tmp_path, optimizer: Optimizer, schedule: Schedule) -> float:
    """How far the losses of a run that changes backend lie from the uninterrupted run's, ten steps on and more."""
    recipe = replace(RECIPE, precision="float64", optimizer=optimizer, schedule=schedule)
    whole, after = {}, {}
    go(first, recipe, callback=lambda at: whole.setdefault(at.step, at.loss))
    with pytest.raises(TrainingStopped):
        go(first, recipe, out=tmp_path / "run", callback=stopping_at(6))
    go_on(tmp_path / "run", second, callback=lambda at: after.setdefault(at.step, at.loss))
    assert max(after) == STEPS
    assert len(after) > 10
    shutil.rmtree(tmp_path / "run")
    return max(abs(loss - whole[step]) for step, loss in after.items())


OPTIMIZERS = {
    "momentum and decay": RECIPE.optimizer,
    "Nesterov and decay": replace(RECIPE.optimizer, nesterov=True),
    "kernels alone decay": replace(RECIPE.optimizer, decay="weights"),
    "plain": Optimizer(learning_rate=0.05),
}
CONSTANT = Schedule()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("first, second", [BACKENDS, BACKENDS[::-1]])
def test_a_run_goes_on_on_the_other_backend_in_lock_step(
    first: str, second: str, optimizer: Optimizer, tmp_path
) -> None:
    assert parted(first, second, tmp_path, optimizer, RECIPE.schedule) < 1e-9


@pytest.mark.parametrize("first, second", [BACKENDS, BACKENDS[::-1]])
def test_lock_step_notices_momentum_that_is_not_rescaled(first: str, second: str, tmp_path, monkeypatch) -> None:
    import resnet_xf_mxnet.learner

    for name in ("_update", "dump", "load"):
        monkeypatch.setattr(resnet_xf_mxnet.learner.MxnetLearner, name, getattr(MxnetLaw, name))
    # MXNet's own law, its buffers exchanged with the rate of the moment: right while the rate stays ...
    assert parted(first, second, tmp_path, RECIPE.optimizer, CONSTANT) < 1e-9
    # ... and wrong as soon as it changes.
    assert parted(first, second, tmp_path, RECIPE.optimizer, RECIPE.schedule) > 1e-5


@cache
def exact_losses(backend: str) -> dict[int, float]:
    """The loss of each step of an uninterrupted run in float64."""
    losses: dict[int, float] = {}
    go(backend, replace(RECIPE, precision="float64"), callback=lambda at: losses.setdefault(at.step, at.loss))
    return losses


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lost", ["velocity", "sign", "position"])
def test_lock_step_notices_what_a_checkpoint_loses(backend: str, lost: str, tmp_path, monkeypatch) -> None:
    import resnet_xf.training.runs

    def lossy(path):
        found = load_checkpoint(path)
        if lost == "position":
            header = found.header
            moved = replace(header, position=replace(header.position, batch=header.position.batch - 1))
            return dataclasses.replace(found, header=moved)
        factor = 0 if lost == "velocity" else -1
        return dataclasses.replace(found, velocity={name: factor * array for name, array in found.velocity.items()})

    whole, after = exact_losses(backend), {}
    monkeypatch.setattr(resnet_xf.training.runs, "load_checkpoint", lossy)
    recipe = replace(RECIPE, precision="float64")
    with pytest.raises(TrainingStopped):
        go(backend, recipe, out=tmp_path / "run", callback=stopping_at(8))
    go_on(tmp_path / "run", backend, callback=lambda at: after.setdefault(at.step, at.loss))
    assert max(abs(loss - whole[step]) for step, loss in after.items()) > 1e-5


def test_the_two_backends_train_the_same_in_float64() -> None:
    recipe = replace(RECIPE, precision="float64")
    runs = [go(backend, recipe) for backend in BACKENDS]
    for one, other in zip(runs[0].history, runs[1].history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-11)
        assert one.train_accuracy == other.train_accuracy
    for name, array in runs[0].weights.items():
        if not name.endswith("running_var"):  # PyTorch's are unbiased
            np.testing.assert_allclose(runs[1].weights[name], array, rtol=0, atol=1e-11 * np.abs(array).max())


def test_a_norm_on_the_images_moves_its_statistics_on_both_backends() -> None:
    spec = replace(TINY, stem=replace(TINY.stem, input_norm=True))
    runs = [go(backend, replace(RECIPE, precision="float64"), spec) for backend in BACKENDS]
    means = [run.weights["input_norm.running_mean"] for run in runs]
    assert np.abs(means[0]).max() > 1e-4
    np.testing.assert_allclose(means[1], means[0], rtol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_statistics_stay_and_all_else_learns(backend: str, tmp_path) -> None:
    run = go(backend, replace(RECIPE, freeze_statistics=True), out=tmp_path / "run", keep=9)
    before = load_checkpoint(list_checkpoints(tmp_path / "run")[0]).weights
    for name, array in run.weights.items():
        assert same_bits(array, before[name]) == ("running" in name), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_keeps_float32_weights_and_goes_on_to_the_bit(backend: str, tmp_path) -> None:
    recipe = replace(RECIPE, precision="bfloat16")
    exact, mixed = go(backend), go(backend, recipe)
    assert {array.dtype for array in mixed.weights.values()} == {np.dtype("float32")}
    assert 0 < abs(mixed.history[0].train_loss - exact.history[0].train_loss) < 0.2
    with pytest.raises(TrainingStopped):
        go(backend, recipe, out=tmp_path / "run", callback=stopping_at(8))
    again = go_on(tmp_path / "run", backend)
    assert all(same_bits(again.weights[name], array) for name, array in mixed.weights.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_book_s_network_learns_digits(backend: str) -> None:
    """All of its layers with an eighth of their channels, which is quick; the whole data and recipe."""
    spec = narrowed(get_spec("d2l_resnet18"), 8)
    assert train(spec, backend=backend, device="cpu").history[-1].test_accuracy >= 0.97


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_default_the_book_s_network_learns_digits_with_their_recipe(backend: str) -> None:
    class FirstStepError(Exception):
        pass

    def stop(progress) -> None:
        seen.append(progress)
        raise FirstStepError

    seen: list[Progress] = []
    with pytest.raises(FirstStepError):
        train(backend=backend, device="cpu", callback=stop)
    assert [(at.step, at.steps, at.epochs) for at in seen] == [(1, 8 * 23, 8)]
    default = inspect.signature(train).parameters
    training = prepare(default["network"].default, default["dataset"].default, default["recipe"].default)
    assert training.planned.spec == get_spec("d2l_resnet18")
    assert (training.data.name, training.recipe) == ("digits", get_recipe("digits"))
    assert len(training.data.train) + len(training.data.test) == 1797


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "freeze, message",
    [
        (True, r"the loss is (nan|inf) at step \d of 18 \(epoch 1 of 3\)"),
        (False, r"running_var is no longer finite after step 6"),
    ],
)
def test_numbers_that_are_not_finite_end_the_run_and_the_last_good_checkpoint_stays(
    backend: str, freeze: bool, message: str, tmp_path
) -> None:
    recipe = replace(
        RECIPE,
        optimizer=Optimizer(learning_rate=1e30),
        schedule=CONSTANT,
        precision="float64",
        freeze_statistics=freeze,
    )
    with pytest.raises(TrainingError, match=message + r".*; the last good checkpoint is .*step-00000000.safetensors"):
        go(backend, recipe, out=tmp_path / "run")
    assert all(np.isfinite(array).all() for array in load_checkpoint(tmp_path / "run").weights.values())


def test_a_run_begins_with_the_weights_given(tmp_path) -> None:
    weights = draw_weights(TINY, 77)
    go("torch", replace(RECIPE, epochs=1, schedule=Schedule()), weights=weights, out=tmp_path / "run")
    first = load_checkpoint(list_checkpoints(tmp_path / "run")[0]).weights
    assert all(same_bits(first[name], array) for name, array in weights.items())


def test_weights_that_are_not_finite_begin_no_run(tmp_path) -> None:
    weights = draw_weights(TINY, 77)
    weights["fc.bias"][3] = np.nan
    with pytest.raises(
        WeightsError, match=r"^fc\.bias: holds NaN or infinite values, and no training begins with them$"
    ):
        go("torch", weights=weights, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_before_its_first_step_is_in_epoch_1(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("resnet_xf.training.loop.refuse_run", lambda folder: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(TrainingStopped, match=r"^stopped after step 0 of 18 \(epoch 1 of 3\); go on with"):
        go("torch", out=tmp_path / "run")


def test_the_callback_is_told_of_every_step_and_epoch() -> None:
    told = []
    run = go("torch", callback=told.append)
    assert [at.step for at in told if at.record is None] == list(range(1, STEPS + 1))
    assert tuple(at.record for at in told if at.record is not None) == run.history
    assert all(at.images_per_second > 0 and at.steps == STEPS and at.epochs == 3 for at in told)
    assert [record.epoch for record in run.history] == [1, 2, 3]
    assert run.history[-1].learning_rate == pytest.approx(0.005)


def test_a_batch_too_small_for_a_norm_is_refused_unless_it_is_dropped() -> None:
    deep = replace(TINY, stages=(*TINY.stages, *(replace(TINY.stages[1], channels=16),) * 3))
    recipe = replace(RECIPE, batch_size=179, epochs=2, image_size=(8, 8))
    with pytest.raises(
        RecipeError, match=r"\$\.batch_size: the smallest batch has 1 of the images, for 1 at work.*drop_last"
    ):
        go("torch", recipe, deep)
    embedding = replace(TINY, head="embedding")  # its norm sees a vector of each image
    with pytest.raises(RecipeError, match="the smallest batch has 1 of the images"):
        go("torch", replace(recipe, image_size=(12, 12)), embedding)
    assert len(go("torch", replace(recipe, drop_last=True), deep).history) == 2


def test_workers_that_were_given_other_things_are_found_out(monkeypatch) -> None:
    begun = prepare(TINY, few_digits(), RECIPE, backend="torch", device="cpu")
    assert prepare(TINY, few_digits(), RECIPE, backend="torch", device="cpu")._identity() == begun._identity()
    for data, recipe in (
        (few_digits(179), RECIPE),
        (few_digits(180, 59), RECIPE),
        (few_digits(), replace(RECIPE, seed=6)),
    ):
        assert prepare(TINY, data, recipe, backend="torch", device="cpu")._identity() != begun._identity()
    monkeypatch.setattr(begun, "_total", lambda *values: tuple(2 * value + 1 for value in values))
    with pytest.raises(TrainingError, match="worker 0 begins at step 0, others at another"):
        begun.run()
    monkeypatch.setattr(begun, "_total", lambda step, own: (step, own + 1))
    with pytest.raises(TrainingError, match="has another recipe, network, data set or weights than others; give each"):
        begun.run()


def test_a_test_image_that_cannot_be_read_loses_no_epoch(tmp_path) -> None:
    """Its batch is not the first one, which is read before the run begins."""
    digits = few_digits()
    paths = []
    for number in range(60):
        paths.append(str(tmp_path / f"{number}.png"))
        digits.test.image(number, 1).save(paths[-1])
    Path(paths[-1]).write_bytes(b"no image")
    data = dataclasses.replace(digits, test=FileSplit(tuple(paths), digits.test.labels))
    with pytest.raises(DataError, match=r"59\.png: .*stopped after step 6 of 18 .*; go on with"):
        go("torch", data=data, out=tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").header.step == 6


def test_what_does_not_fit_is_refused_in_one_line(tmp_path) -> None:
    wrong = {
        r"digits: its images have 1 channels and tiny takes 3": (DataError, {"network": replace(TINY, in_channels=3)}),
        r"digits: its labels go up to 9 and tiny has 5 classes": (DataError, {"network": replace(TINY, num_classes=5)}),
        r"\$\.drop_last: leaves no batch of": (
            RecipeError,
            {"recipe": replace(RECIPE, batch_size=500, drop_last=True)},
        ),
        r"\$\.augmentation\.mean: has 3 numbers": (
            RecipeError,
            {"recipe": replace(RECIPE, augmentation=replace(RECIPE.augmentation, mean=(0.5,) * 3, std=(0.5,) * 3))},
        ),
    }
    for message, (error, settings) in wrong.items():
        with pytest.raises(error, match=message) as refused:
            go("torch", out=tmp_path / "run", **settings)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_network_and_data_alone(tmp_path) -> None:
    go("torch", replace(RECIPE, epochs=1, schedule=Schedule()), out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds a run already"):
        go("torch", out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="is a run of tiny, and resnet18 was asked for; they differ in name"):
        go_on(tmp_path / "run", "torch", network=get_spec("resnet18"))
    with pytest.raises(
        CheckpointError, match="trains on 180 images of few digits, and the 100 of few digits are not those"
    ):
        resume(tmp_path / "run", dataset=few_digits(100))
    with pytest.raises(CheckpointError, match="no such folder"):
        resume(tmp_path / "none")
    assert len(go_on(tmp_path / "run", "torch").history) == 1  # it is finished, and nothing is trained


def test_two_processes_do_not_write_one_run(tmp_path) -> None:
    def intrude(at) -> None:
        with pytest.raises(CheckpointError, match="another process trains there"):
            go_on(tmp_path / "run", "torch")
        intruded.append(at.step)

    intruded: list[int] = []
    go("torch", replace(RECIPE, epochs=1, schedule=CONSTANT), out=tmp_path / "run", callback=intrude)
    assert len(intruded) == 7


def test_a_damaged_checkpoint_names_the_one_before(tmp_path) -> None:
    go("torch", replace(RECIPE, epochs=1, schedule=CONSTANT), out=tmp_path / "run")
    last = list_checkpoints(tmp_path / "run")[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step-00000006.*; delete it to resume from .*step-00000000"):
        go_on(tmp_path / "run", "torch")


def test_what_is_at_hand_in_memory_is_checked() -> None:
    data = few_digits()
    none = dataclasses.replace(data, test=data.test.take(np.arange(0)))
    with pytest.raises(DataError, match="has no test images"):
        go("torch", data=none)
    below = dataclasses.replace(data.train, labels=data.train.labels - 1)
    with pytest.raises(DataError, match="has the label -1; expected 0 and more"):
        go("torch", data=dataclasses.replace(data, train=below))
    with pytest.raises(CheckpointError, match="keep: expected 1 checkpoint or more, got 0"):
        go("torch", keep=0)


def test_the_header_holds_every_field_so_that_defaults_may_change() -> None:
    fields = msgspec.json.decode(
        Header(
            recipe=RECIPE, backend="torch", dataset="", train_images=1, train_digest="", classes=(), mean=(0.0,), std=(1.0,)
        ).to_complete_json()
    )  # fmt: skip
    assert fields["version"] == 1
    assert fields["recipe"]["augmentation"]["mean"] is None
    assert set(fields["recipe"]["optimizer"]) == set(Optimizer.__struct_fields__)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_is_made_longer_is_a_longer_run_to_the_bit(backend: str, tmp_path) -> None:
    """Of a schedule that does not depend on the end; with a limit, which draws the same images again."""
    recipe = replace(RECIPE, epochs=2)
    whole = go(backend, replace(recipe, epochs=3), limit=100)
    short = go(backend, recipe, out=tmp_path, limit=100)
    assert short.history[0].train_loss != go(backend, recipe, limit=99).history[0].train_loss
    again = go_on(tmp_path, backend, epochs=3)
    assert len(again.history) == 3
    assert all(same_bits(again.weights[name], array) for name, array in whole.weights.items())
    with pytest.raises(CheckpointError, match="epochs: it is in epoch 3 already; expected 3 or more, got 2"):
        go_on(tmp_path, backend, epochs=2)
