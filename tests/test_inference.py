import dataclasses
import re
from pathlib import Path

import msgspec
import numpy as np
import pooch
import pytest
import torch
from PIL import Image

from helpers.images import tensor
from helpers.runs import TINY
from resnet_xf import build, convert, draw_weights, plan, save_weights
from resnet_xf.architecture.nodes import Activation, Sequential
from resnet_xf.architecture.plan import explicit_spec
from resnet_xf.data import ArraySplit, Dataset, Transform, load_dataset
from resnet_xf.errors import (
    BackendError,
    CheckpointError,
    DataError,
    RecipeError,
    ResNetXFError,
    SpecError,
    WeightsError,
)
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import load_checkpoint
from resnet_xf.training.inference import evaluate, predict, prepare, relabelled
from resnet_xf.training.loop import Run
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe
from resnet_xf.training.runs import train

SPEC = msgspec.structs.replace(TINY, image_size=(16, 16))
RECIPE = Recipe(
    name="brief",
    epochs=3,
    batch_size=24,
    optimizer=Optimizer(learning_rate=0.1, momentum=0.9),
    augmentation=Augmentation(crop="padded", flip=True, padding=1),  # mean and std are the data set's
)
PLAIN = msgspec.structs.replace(RECIPE, name="plain", augmentation=Augmentation(mean=(0.0,), std=(1.0,)))
BACKENDS = ["torch", "mxnet"]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Some of the digits, under names of their own."""
    whole = load_dataset("digits")
    return Dataset("few", 1, NAMES, whole.train.take(np.arange(120)), whole.test.take(np.arange(50)))


@pytest.fixture(scope="module", params=BACKENDS)
def trained(request, tmp_path_factory, data) -> Run:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / request.param
    return train(SPEC, data, RECIPE, backend=request.param, device="cpu", out=out)


@pytest.fixture
def images(tmp_path, data) -> list[Path]:
    """The first test images as PNG files, 8×8."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        data.test.image(number, 1).save(path)
    return paths


@pytest.fixture
def weights(tmp_path) -> Path:
    """Weights that are no run's."""
    path = tmp_path / "w.safetensors"
    save_weights(path, draw_weights(SPEC, seed=4, scheme="probe"), SPEC)
    return path


def outputs_of(run: Run, data: Dataset, count: int) -> np.ndarray:
    """What PyTorch computes of the run's weights for the first test images."""
    header = load_checkpoint(run.path).header
    numbers = tensor(Transform((16, 16), 1, mean=header.mean, std=header.std), data.test, np.arange(count))
    network = build(SPEC, "torch", weights=run.weights).eval()
    with torch.inference_mode():
        return network(torch.tensor(numbers)).numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_evaluates_to_its_last_record_on_every_backend(trained: Run, data, backend: str) -> None:
    found, last = evaluate(trained.path, data, backend=backend, device="cpu"), trained.history[-1]
    assert found.accuracy == pytest.approx(last.test_accuracy, abs=1e-9)
    assert found.loss == pytest.approx(last.test_loss, rel=1e-5)
    assert (found.network, found.dataset, found.images, found.backend, found.device) == (
        "tiny",
        "few",
        50,
        backend,
        "cpu",
    )
    assert found.images_per_second > 0


def test_loss_and_accuracy_are_pytorchs(trained: Run, data) -> None:
    found = evaluate(trained.path, data, device="cpu")
    outputs, labels = torch.tensor(outputs_of(trained, data, 50)), torch.tensor(data.test.labels)
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(outputs, labels).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((outputs.argmax(dim=1) == labels).double().mean().item())


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_the_batch_size_changes_nothing(trained: Run, data, batch_size: int) -> None:
    found, last = evaluate(trained.path, data, device="cpu", batch_size=batch_size), trained.history[-1]
    assert found.accuracy == pytest.approx(last.test_accuracy, abs=1e-9)
    assert found.loss == pytest.approx(last.test_loss, rel=1e-5)


def test_one_checkpoint_of_a_run_is_evaluated_as_such(trained: Run, data) -> None:
    first = list_checkpoints(trained.path)[0]
    epoch = load_checkpoint(first).header.position.epoch
    found = evaluate(first, data, device="cpu")
    assert found.loss == pytest.approx(trained.history[epoch - 1].test_loss, rel=1e-5)


def test_a_run_is_evaluated_on_its_own_data_set_where_none_is_named(tmp_path, data) -> None:
    done = train(SPEC, "digits", replace(PLAIN, epochs=1, batch_size=256), device="cpu", out=tmp_path)
    found = evaluate(tmp_path, device="cpu")
    assert (found.dataset, found.images) == ("digits", 359)
    assert found.loss == pytest.approx(done.history[-1].test_loss, rel=1e-5)


@pytest.mark.parametrize(
    "dataset, says",
    [
        (None, r"files: holds no train-images.*, which mnist needs"),
        ("mnist", r"files: holds no train-images.*, which mnist needs"),
        ("fashion-mnist", r"cache.fashion-mnist: cannot be made"),
    ],
)
def test_files_of_a_run_s_data_set_are_not_those_of_another(data, tmp_path, monkeypatch, dataset, says: str) -> None:
    """The run was trained with --data-dir; without it, files are looked for in the cache."""
    (tmp_path / "files").mkdir()
    (tmp_path / "cache").touch()  # no folder, so that nothing is fetched
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    mnist, once = dataclasses.replace(data, name="mnist"), replace(PLAIN, epochs=1, batch_size=120)
    train(SPEC, mnist, once, device="cpu", data_dir=tmp_path / "files", out=tmp_path / "run")
    refused(DataError, says, evaluate, tmp_path / "run", dataset)


def test_smoothing_is_for_training_alone(tmp_path, data) -> None:
    smooth = train(SPEC, data, replace(PLAIN, epochs=1, label_smoothing=0.9), device="cpu", out=tmp_path)
    assert evaluate(tmp_path, data, recipe=PLAIN, device="cpu").loss == pytest.approx(smooth.history[-1].test_loss)


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_are_the_softmax_of_the_networks_outputs(trained: Run, data, images, backend: str) -> None:
    wanted = torch.softmax(torch.tensor(outputs_of(trained, data, 5)).double(), dim=1).numpy()
    found = predict(trained.path, images, top=10, backend=backend, device="cpu")
    assert len(found) == 5
    for guesses, row in zip(found, wanted, strict=True):
        assert sorted(guess.label for guess in guesses) == list(range(10))
        assert [guess.probability for guess in guesses] == pytest.approx([row[g.label] for g in guesses], abs=1e-5)
        assert [guess.name for guess in guesses] == [NAMES[guess.label] for guess in guesses]
        assert sum(guess.probability for guess in guesses) == pytest.approx(1)
        assert guesses[0].label == row.argmax()


def test_a_softmax_that_was_kept_is_not_taken_twice(trained: Run, data, images, tmp_path) -> None:
    layers = (*plan(SPEC).root.children, ("softmax", Activation("softmax")))
    kept = explicit_spec("kept", Sequential(layers), SPEC.image_size)
    weights = load_checkpoint(trained.path).weights
    for name, spec in (("plain", SPEC), ("kept", kept)):
        save_weights(tmp_path / f"{name}.safetensors", weights, spec)
    plain, softmax = (tmp_path / f"{name}.safetensors" for name in ("plain", "kept"))
    assert predict(softmax, images, recipe=PLAIN, device="cpu") == predict(plain, images, recipe=PLAIN, device="cpu")
    losses = [evaluate(path, data, recipe=PLAIN, device="cpu").loss for path in (softmax, plain)]
    assert losses[0] == losses[1]
    with pytest.raises(DataError, match="ends in a softmax"):
        train(kept, data, PLAIN, weights=softmax, device="cpu", out=tmp_path / "run")


def test_the_likeliest_come_first_and_only_as_many_as_asked(trained: Run, images) -> None:
    whole = predict(trained.path, images, top=1000, device="cpu")
    for top in (1, 3, 5):
        found = predict(trained.path, images, top=top, device="cpu")
        assert found == [guesses[:top] for guesses in whole]
        for guesses in found:
            chances = [guess.probability for guess in guesses]
            assert chances == sorted(chances, reverse=True)
            assert 0 < sum(chances) <= 1 + 1e-12
    assert all(len(guesses) == 10 for guesses in whole)


def test_files_of_any_size_and_mode_are_taken(trained: Run, images, tmp_path) -> None:
    large = tmp_path / "large.png"
    Image.open(images[0]).convert("RGBA").resize((97, 61)).save(large)
    Image.open(images[0]).convert("RGB").save(tmp_path / "colour.png")
    grey, colour, other = predict(trained.path, [images[0], tmp_path / "colour.png", large], device="cpu")
    assert grey == colour
    assert len(other) == 5
    for mode in ("I", "F"):
        Image.new(mode, (20, 20), 1000).save(tmp_path / "deep.tif")
        with pytest.raises(
            DataError, match=r"deep\.tif: has pixels of mode [IF], whose largest value is not known; save"
        ):
            predict(trained.path, [tmp_path / "deep.tif"], device="cpu")


def test_no_image_is_no_guess(trained: Run) -> None:
    assert predict(trained.path, [], device="cpu") == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".params"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpoint_that_is_no_runs_is_taken_with_a_recipe(
    weights, tmp_path, data, images, backend, suffix: str
) -> None:
    source = tmp_path / f"w{suffix}"
    spec = tmp_path / "tiny.toml"
    spec.write_text(SPEC.to_toml())
    if source != weights:
        convert(weights, source, SPEC, verify=False)
    named = None if suffix == ".safetensors" else str(spec)
    found = evaluate(source, data, recipe=PLAIN, network=named, backend=backend, device="cpu")
    network = build(SPEC, "torch", weights=draw_weights(SPEC, seed=4, scheme="probe")).eval()
    numbers = torch.tensor(tensor(Transform((16, 16), 1), data.test, np.arange(50)))
    with torch.inference_mode():
        outputs = network(numbers)
    wanted = torch.nn.functional.cross_entropy(outputs, torch.tensor(data.test.labels)).item()
    assert found.loss == pytest.approx(wanted, rel=1e-4)
    guesses = predict(source, images, recipe=PLAIN, network=named, backend=backend, device="cpu")
    assert [best[0].label for best in guesses] == outputs[:5].argmax(dim=1).tolist()
    assert guesses[0][0].name == str(guesses[0][0].label)  # nobody has named its classes


def test_a_recipe_without_mean_takes_the_data_sets(weights, data) -> None:
    pixels = data.train.images / 255
    same = Augmentation(mean=(float(pixels.mean()),), std=(float(pixels.std()),))
    wanted = evaluate(weights, data, recipe=replace(PLAIN, augmentation=same), device="cpu")
    found = evaluate(weights, data, recipe="cifar", device="cpu")
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)


def test_a_network_with_its_own_mean_is_given_the_pixels_that_it_takes(data, images, tmp_path) -> None:
    own = replace(SPEC, stem=replace(SPEC.stem, input_scale=(127.5, 0.0078125)))
    source = tmp_path / "own.safetensors"
    save_weights(source, draw_weights(own, seed=4, scheme="probe"), own)
    assert 100 < prepare(source, images).inputs[0].max() <= 255
    found = evaluate(source, data, device="cpu")
    assert "the network has its own mean and scale, for pixels of 0 to 255" in found.usage.preprocessing_from
    run = train(own, data, replace(RECIPE, epochs=1), backend="torch", device="cpu", out=tmp_path / "run")
    header = load_checkpoint(run.path).header
    assert (header.mean, header.std) == ((0.0,), (1 / 255,))


def test_another_recipe_may_be_named_for_a_run(trained: Run, data, images) -> None:
    assert evaluate(trained.path, data, recipe="digits", device="cpu").images == 50
    assert predict(trained.path, images[:1], recipe=PLAIN, device="cpu")[0][0].name in NAMES


def test_a_float64_run_is_evaluated_in_float64(tmp_path, data) -> None:
    recipe = replace(PLAIN, epochs=1, precision="float64")
    done = train(SPEC, data, recipe, device="cpu", out=tmp_path)
    found = {backend: evaluate(tmp_path, data, backend=backend, device="cpu").loss for backend in BACKENDS}
    assert found["torch"] == pytest.approx(done.history[-1].test_loss, rel=1e-12)
    assert found["mxnet"] == pytest.approx(found["torch"], rel=1e-12)


def refused(kind: type[ResNetXFError], says: str, function, *arguments, **options) -> None:
    """One line, of that class and no other."""
    with pytest.raises(kind, match=says) as error:
        function(*arguments, **({"device": "cpu"} | options))
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_outputs_that_are_not_finite_are_no_result(tmp_path, data, images) -> None:
    weights = draw_weights(SPEC, seed=4, scheme="probe")
    path = tmp_path / "w.safetensors"
    save_weights(path, {name: a * np.float32(1e37) if a.ndim > 1 else a for name, a in weights.items()}, SPEC)
    for use in (lambda: predict(path, images, recipe=PLAIN), lambda: evaluate(path, data, recipe=PLAIN)):
        with pytest.raises(WeightsError, match=r"w\.safetensors: its outputs are not finite; "):
            use()


def test_what_is_no_image_is_named(trained: Run, images, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    unreadable = "not readable as an image: "
    for name, says in {
        "text.png": f"{unreadable}it is none of BMP, GIF, JPEG",
        "cut.png": unreadable,
        "empty.png": f"{unreadable}it is empty",
        "none.png": "No such file or directory",
        ".": "Is a directory",
    }.items():
        path = tmp_path / name
        refused(DataError, rf"^{re.escape(str(path))}: {says}", predict, trained.path, [images[1], path])


def test_an_unknown_run_is_named(tmp_path, data, images) -> None:
    refused(WeightsError, "not the folder of a training run; name a checkpoint file", evaluate, tmp_path)
    refused(WeightsError, "not the folder of a training run; name a checkpoint file", predict, tmp_path, images)
    for name in ("none", "none.safetensors", "none.pth"):
        refused(WeightsError, rf"{re.escape(name)}: [^\n]*No such file", evaluate, tmp_path / name, data)
        refused(WeightsError, rf"{re.escape(name)}: [^\n]*No such file", predict, tmp_path / name, images)


def test_a_damaged_run_is_named(trained: Run, data, tmp_path) -> None:
    path = tmp_path / "checkpoints" / "step-00000001.safetensors"
    path.parent.mkdir()
    whole = list_checkpoints(trained.path)[-1].read_bytes()
    path.write_bytes(whole[:-1])
    refused(CheckpointError, rf"^{re.escape(str(path))}: ", evaluate, tmp_path, data)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(CheckpointError, rf"^{re.escape(str(path))}: its digest", evaluate, tmp_path, data)


def test_weights_without_a_data_set_cannot_be_evaluated(weights) -> None:
    refused(DataError, r"w\.safetensors: is no run, so a data set must be named \(--dataset\)", evaluate, weights)


def test_a_recipe_whose_mean_is_the_data_sets_needs_one(weights, images) -> None:
    refused(DataError, "recipe cifar: takes mean and std from a data set", predict, weights, images, recipe="cifar")


def test_a_data_set_of_other_channels_is_refused(trained: Run, weights, data) -> None:
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    split = ArraySplit(pixels, np.arange(4))
    coloured = Dataset("coloured", 3, NAMES, split, split)
    says = "coloured: its images have 3 channels and tiny takes 1"
    refused(DataError, f"{says}$", evaluate, trained.path, coloured)  # it has no option for channels
    refused(DataError, f"{says}$", evaluate, weights, coloured, recipe=PLAIN)
    refused(DataError, f"{says}; change the spec's in_channels", train, SPEC, coloured, PLAIN)


@pytest.mark.parametrize("half", ["train", "test"])
def test_labels_beyond_the_classes_are_refused(weights, data, half: str) -> None:
    split = ArraySplit(data.test.images[:4], np.array([0, 3, 10, 1]))
    more = Dataset("more", 1, (*NAMES, "ten"), *((split, data.test) if half == "train" else (data.train, split)))
    says = "more: its labels go up to 10 and tiny has 10 classes"
    refused(DataError, f"{says}$", evaluate, weights, more, recipe=PLAIN)  # as above
    refused(DataError, f"{says}; change the spec's num_classes", train, SPEC, more, PLAIN)


def test_other_classes_than_the_runs_are_refused(trained: Run, data) -> None:
    other = Dataset("other", 1, ("none", *NAMES[1:]), data.train, data.test)
    refused(DataError, "other: has the class none, and tiny has no class of this name", evaluate, trained.path, other)


def test_a_mean_of_another_number_of_channels_is_refused(trained: Run, weights, data, images) -> None:
    three = replace(PLAIN, augmentation=Augmentation(mean=(0.5,) * 3, std=(0.5,) * 3))
    says = r"^\$\.augmentation\.mean: has 3 numbers and std 3, for 1 channels"
    refused(RecipeError, says, evaluate, trained.path, data, recipe=three)
    refused(RecipeError, says, evaluate, weights, data, recipe="imagenet")
    refused(RecipeError, says, predict, trained.path, images, recipe=three)
    refused(RecipeError, says, predict, weights, images)
    refused(RecipeError, says, train, SPEC, data, three)
    uneven = replace(PLAIN, augmentation=Augmentation(mean=(0.5,), std=(0.5,) * 3))
    refused(RecipeError, r"^\$\.augmentation\.mean: has 1 numbers and std 3", evaluate, weights, data, recipe=uneven)


def test_a_recipe_made_in_python_is_checked(weights, data, images) -> None:
    malformed = replace(PLAIN, augmentation=Augmentation(mean=(0.5,), std=(0.0,)))
    refused(RecipeError, r"^\$\.augmentation\.std: must be above 0", evaluate, weights, data, recipe=malformed)
    refused(RecipeError, r"^\$\.augmentation\.std: must be above 0", predict, weights, images, recipe=malformed)


def test_what_is_unknown_is_named(trained: Run, weights, data, images) -> None:
    refused(RecipeError, "no recipe is called 'nope'", evaluate, trained.path, data, recipe="nope")
    refused(DataError, "no data set is called 'nope'", evaluate, trained.path, "nope")
    refused(SpecError, "no spec is called 'nope'", evaluate, weights, data, network="nope")
    refused(BackendError, "no backend is called 'nope'", evaluate, trained.path, data, backend="nope")
    for backend in BACKENDS:
        refused(
            BackendError, "no device is called 'nope'", evaluate, trained.path, data, backend=backend, device="nope"
        )
        refused(
            BackendError, "no device is called 'nope'", predict, trained.path, images, backend=backend, device="nope"
        )


def test_the_wrong_network_for_weights_is_named(weights, data) -> None:
    refused(
        WeightsError,
        r"w\.safetensors: does not hold the weights of resnet18",
        evaluate,
        weights,
        data,
        network="resnet18",
    )


def test_classes_match_by_their_wordnet_numbers() -> None:
    split = ArraySplit(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]))
    data = Dataset("two", 1, ("n01443537", "n01440764 tench"), split, split)
    names = ("n01440764 tench, Tinca tinca", "n01443537 goldfish")
    changed = relabelled(data, names, plan(TINY))
    assert changed.classes == names
    assert changed.test.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="has two classes n01443537"):
        relabelled(data, (*names, "n01443537 carp"), plan(TINY))
