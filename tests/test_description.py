"""What belongs to a checkpoint besides its weights: preprocessing and class names, in the file or beside it."""

import json
from dataclasses import replace as changed
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.runs import RECIPE, TINY, few_digits
from resnet_xf import convert, draw_weights, save_weights
from resnet_xf.data import Dataset, Transform
from resnet_xf.errors import DataError, WeightsError
from resnet_xf.formats.convert import write_checkpoint
from resnet_xf.formats.description import UNTRAINED, Description, Preprocessing, path_beside, read_beside
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.inspect import inspect
from resnet_xf.training.checkpoint import load_checkpoint
from resnet_xf.training.inference import evaluate, predict
from resnet_xf.training.runs import train

SUFFIXES = (".safetensors", ".pth", ".pt", ".params")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VIEW = Preprocessing(image_size=(9, 11), crop="centre", mean=(0.25,), std=(0.5,))
KNOWN = Description(preprocessing=VIEW, classes=NAMES)
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return draw_weights(TINY, 3, "probe")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return changed(few_digits(40, 30), classes=NAMES)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data) -> Path:
    """A run whose image size is not the network's own, and whose mean and deviation are the data set's."""
    folder = tmp_path_factory.mktemp("run")
    train(TINY, data, replace(RECIPE, epochs=1, image_size=(10, 14)), device="cpu", out=folder, backend="torch")
    return folder


def without(data: Dataset, label: int) -> Dataset:
    """The data set without one class, its labels counted among those that are left, as in folders of images."""

    def half(split):
        part = split.take(np.flatnonzero(split.labels != label))
        return changed(part, labels=part.labels - (part.labels > label))

    classes = tuple(name for name in data.classes if name != NAMES[label])
    return Dataset("fewer", 1, classes, half(data.train), half(data.test))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_carries_the_description_there_and_back(tmp_path, weights, suffix: str) -> None:
    write_checkpoint(tmp_path / f"a{suffix}", weights, TINY, KNOWN)
    assert path_beside(tmp_path / f"a{suffix}").exists() == (suffix != ".safetensors")
    for number, other in enumerate(SUFFIXES):
        convert(tmp_path / f"a{suffix}", tmp_path / f"{number}{other}", TINY, verify=False)
        back = convert(tmp_path / f"{number}{other}", tmp_path / f"back{suffix}", TINY, verify=False)
        for description in (back.description, read_checkpoint(tmp_path / f"back{suffix}").description):
            assert replace(description, digest=None) == KNOWN
        assert not any("nothing says" in note for note in back.notes)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_converted_run_evaluates_and_predicts_as_the_run(tmp_path, run, data, suffix: str) -> None:
    before = evaluate(run, data, device="cpu")
    convert(run, tmp_path / f"a{suffix}", verify=False)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    network = None if suffix == ".safetensors" else str(tmp_path / "tiny.toml")
    after = evaluate(tmp_path / f"a{suffix}", data, network=network, device="cpu")
    assert (after.accuracy, after.loss) == (before.accuracy, pytest.approx(before.loss, rel=1e-6))
    assert after.usage == before.usage
    header = load_checkpoint(run).header
    assert (after.usage.preprocessing.image_size, after.usage.preprocessing.crop) == ((10, 14), "resize")
    assert (after.usage.preprocessing.mean, after.usage.classes) == (header.mean, NAMES)
    data.test.image(0, 1).save(tmp_path / "0.png")
    (guesses,) = predict(tmp_path / f"a{suffix}", [tmp_path / "0.png"], network=network, device="cpu")
    assert guesses == predict(run, [tmp_path / "0.png"], device="cpu")[0]
    assert guesses[0].name == NAMES[guesses[0].label]


def test_the_note_says_what_nobody_knows(tmp_path, weights) -> None:
    write_checkpoint(tmp_path / "a.params", weights, TINY)
    (tmp_path / "b.pth.json").write_text('{"resnet_xf": 1, "classes": ["of an earlier b.pth"]}')
    assert any(
        note.startswith("nothing says the preprocessing and the class names;")
        for note in convert(tmp_path / "a.params", tmp_path / "b.pth", TINY, verify=False).notes
    )
    beside = read_beside(tmp_path / "b.pth")
    assert beside is not None
    assert (beside.spec, beside.classes) == (TINY, ())  # the network is known; of an earlier b.pth nothing stays


def test_a_description_of_other_weights_is_refused(tmp_path, weights) -> None:
    write_checkpoint(tmp_path / "a.params", weights, TINY, KNOWN)
    description = path_beside(tmp_path / "a.params").read_bytes()
    assert description.startswith(b'{\n  "')
    write_checkpoint(tmp_path / "a.params", draw_weights(TINY, 4), TINY)
    path_beside(tmp_path / "a.params").write_bytes(description)
    with pytest.raises(WeightsError, match=r"a\.params\.json: describes other contents of a\.params"):
        read_checkpoint(tmp_path / "a.params")


def test_another_programs_json_is_neither_read_nor_replaced(tmp_path, weights) -> None:
    write_checkpoint(tmp_path / "a.pth", weights, TINY)
    (tmp_path / "a.pth.json").write_text('{"epochs": 3}')
    assert read_checkpoint(tmp_path / "a.pth").description is None
    with pytest.raises(WeightsError, match=r"a\.pth\.json: is another program's"):
        write_checkpoint(tmp_path / "a.pth", weights, TINY, KNOWN)
    assert (tmp_path / "a.pth.json").read_text() == '{"epochs": 3}'


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"resnet_xf": 2}', r"a\.pth\.json: \$\.resnet_xf: invalid enum value 2"),
        ('{"resnet_xf": 1, "clases": []}', r"a\.pth\.json: \$: object contains unknown field"),
        ('{"resnet_xf": 1', r"a\.pth\.json: \$: input data was truncated"),
        ('{"resnet_xf": 1, "preprocessing": {"image_size": [0, 9]}}', r"\$\.preprocessing\.image_size\[0\]: expected"),
        (
            '{"resnet_xf": 1, "preprocessing": {"image_size": [9, 9], "mean": [0, 0, 0], "std": [1]}}',
            r"its description does not fit: \$\.preprocessing\.mean: expected one number or 1",
        ),
        (
            '{"resnet_xf": 1, "preprocessing": {"image_size": [9, 9], "std": [0]}}',
            r"\$\.preprocessing\.std: expected one number or 1, above 0",
        ),
        (
            '{"resnet_xf": 1, "preprocessing": {"image_size": [9, 9], "mean": [123.7], "std": [58.4]}}',
            r"its description does not fit: \$\.preprocessing\.mean: expected values for pixels of 0…1, .* write scale 255 in",
        ),
        (json.dumps({"resnet_xf": 1, "classes": [*NAMES, "ten"]}), r"\$\.classes: has 11 names, and tiny 10 classes"),
    ],
)
def test_a_description_of_ones_own_is_checked(tmp_path, weights, data, text: str, says: str) -> None:
    write_checkpoint(tmp_path / "a.pth", weights, TINY)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    (tmp_path / "a.pth.json").write_text(text)
    with pytest.raises(WeightsError, match=says):
        evaluate(tmp_path / "a.pth", data, network=str(tmp_path / "tiny.toml"), device="cpu")


def test_preprocessing_beside_a_file_leaves_it_the_network_that_it_names(tmp_path, weights) -> None:
    save_weights(tmp_path / "a.safetensors", weights, TINY)
    (tmp_path / "a.safetensors.json").write_text('{"resnet_xf": 1, "preprocessing": {"image_size": [9, 11]}}')
    file = read_checkpoint(tmp_path / "a.safetensors")
    assert file.spec == TINY
    assert file.description == Description(preprocessing=Preprocessing(image_size=(9, 11)))


@pytest.mark.parametrize("target", ["b.pth", "b.onnx"])
def test_too_many_class_names_are_told_before_anything_is_run(tmp_path, weights, target: str) -> None:
    """The expected outputs are wrong, which a run would tell."""
    write_checkpoint(tmp_path / "a.params", weights, TINY)
    beside = Description(spec=TINY, classes=(*NAMES, "ten"))
    (tmp_path / "a.params.json").write_text(beside.to_complete_json())
    wrong = {"images": np.ones((1, 1, 12, 12)), "expected": np.ones((1, 10))}
    with pytest.raises(WeightsError, match=r"a\.params: its description does not fit: \$\.classes: has 11 names"):
        convert(tmp_path / "a.params", tmp_path / target, **wrong)
    assert not (tmp_path / target).exists()


def test_scale_and_channel_order_change_the_tensors() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    from PIL import Image

    def tensor(**settings) -> np.ndarray:
        return Preprocessing(image_size=(4, 5), **settings).transform(3).one(Image.fromarray(image))[0]

    pixels = image.transpose(2, 0, 1).astype(np.float64)
    assert tensor() == pytest.approx(pixels / 255, rel=1e-6)
    assert tensor(channel_order="BGR") == pytest.approx(pixels[::-1] / 255, rel=1e-6)
    mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
    expected = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert tensor(mean=mean, std=std, scale=255) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    expected = (pixels[::-1] / 255 - 0.5) / 0.25
    assert tensor(mean=(0.5,), std=(0.25,), channel_order="BGR") == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("label", [0, 4, 9])
def test_class_names_decide_where_a_class_lacks(run, data, label: int) -> None:
    fewer = without(data, label)
    header, learned = load_checkpoint(run).header, evaluate(run, fewer, device="cpu")
    whole = changed(
        data,
        train=data.train,
        test=data.test.take(np.flatnonzero(data.test.labels != label)),
    )
    assert learned.accuracy == evaluate(run, whole, device="cpu").accuracy
    assert learned.loss == pytest.approx(evaluate(run, whole, device="cpu").loss, rel=1e-6)
    assert learned.usage.classes == header.classes == NAMES


def test_class_names_decide_in_any_order(run, data) -> None:
    def turned(split):
        return changed(split, labels=9 - split.labels)

    other = Dataset("turned", 1, NAMES[::-1], turned(data.train), turned(data.test))
    found, expected = (evaluate(run, one, device="cpu") for one in (other, data))
    assert (found.accuracy, found.loss) == (expected.accuracy, pytest.approx(expected.loss, rel=1e-6))


def test_a_class_that_the_network_has_not_is_refused(run, data) -> None:
    strange = changed(data, name="strange", classes=(*NAMES[:9], "emu"))
    with pytest.raises(DataError, match="strange: has the class emu, and tiny has no class of this name .zero, one,"):
        evaluate(run, strange, device="cpu")
    with pytest.raises(DataError, match="has the class zero, and tiny has two classes zero"):
        evaluate(run, data, device="cpu", classes=("zero", *NAMES[:9]))


def test_without_names_another_number_of_classes_is_refused(tmp_path, weights, data) -> None:
    write_checkpoint(tmp_path / "a.safetensors", weights, TINY)
    fewer = without(data, 0)
    says = r"fewer: has 9 classes and tiny has 10, whose names are not known, .* in the network's order \(--classes\)"
    with pytest.raises(DataError, match=says):
        evaluate(tmp_path / "a.safetensors", fewer, recipe=RECIPE, device="cpu")
    found = evaluate(tmp_path / "a.safetensors", fewer, recipe=RECIPE, device="cpu", classes=NAMES)
    assert (found.usage.classes, found.usage.classes_from) == (NAMES, "given")
    with pytest.raises(DataError, match="expected a name for each of the 10 classes of tiny, got 9 .one, ….; name all"):
        evaluate(tmp_path / "a.safetensors", fewer, recipe=RECIPE, device="cpu", classes=NAMES[1:])
    whole = evaluate(tmp_path / "a.safetensors", data, recipe=RECIPE, device="cpu")
    assert whole.usage.classes_from == "assumed: the data set's, in its order"


def test_options_stand_in_place_of_the_description(tmp_path, weights, data) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, weights, TINY, KNOWN)
    usage = evaluate(path, data, device="cpu", image_size=(8, 8), mean=(0.1,), std=(0.2,)).usage
    assert usage.preprocessing == replace(VIEW, image_size=(8, 8), mean=(0.1,), std=(0.2,))
    assert usage.preprocessing_from == "image_size, mean, std given; otherwise the checkpoint's"
    for wrong, says in (
        ({"mean": (123.7,), "std": (58.4,)}, "mean: expected values for pixels of 0…1, .* by 255"),
        ({"mean": (0.1,)}, "mean: give mean and std both or neither"),
        ({"mean": (0.1,) * 3, "std": (1.0,)}, "mean: expected one number or 1"),
        ({"image_size": (0, 4)}, "size: expected a height and a width of at least 1"),
    ):
        with pytest.raises(DataError, match=says):
            evaluate(path, data, device="cpu", **wrong)


def test_a_run_of_no_step_is_said_to_be_one_also_when_converted(tmp_path, run, data) -> None:
    first = run / "checkpoints" / "step-00000000.safetensors"
    assert evaluate(first, data, device="cpu").usage.warnings == (f"{first}: {UNTRAINED}",)
    converted = convert(first, tmp_path / "a.safetensors", verify=False)
    assert UNTRAINED in converted.notes
    assert evaluate(tmp_path / "a.safetensors", data, device="cpu").usage.warnings
    assert not evaluate(run, data, device="cpu").usage.warnings
    assert inspect(tmp_path / "a.safetensors").description == converted.description


def test_the_default_transform_is_as_before() -> None:
    assert Preprocessing(image_size=(5, 6), mean=(0.3,), std=(0.7,)).transform(1) == Transform(
        (5, 6), 1, mean=(0.3,), std=(0.7,)
    )
