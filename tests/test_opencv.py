"""Images by OpenCV: the same decoding as Pillow's, the same resizing as MXNet's, and damaged files."""

import io
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from helpers.images import tensor
from resnet_xf.data import FileSplit, Transform, draws
from resnet_xf.data.images import antialiased, centre_of, read_file, read_image
from resnet_xf.data.opencv import bilinear
from resnet_xf.data.transform import random_box
from resnet_xf.errors import DataError, MissingExtraError, SpecError
from resnet_xf.formats.description import Preprocessing

cv2 = pytest.importorskip("cv2")


def noise(width: int = 61, height: int = 47) -> Image.Image:
    """Noise, of which every pixel counts."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def by_opencv(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(np.asarray(image), size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("settings", [{}, {"quality": 60, "progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_jpegs_are_decoded_as_by_pillow(tmp_path: Path, settings: dict, mode: str, wanted: str, factor: int) -> None:
    """A whole image at its own size is what was decoded. Colours to grey are Pillow's, in full."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°, which no reader of ours obeys
    noise().convert(mode).save(path, exif=exif, **settings)
    drafted = mode in ("L", wanted)
    with Image.open(path) as image:
        if drafted:
            image.draft(None, (image.width // factor, image.height // factor))
        expected = np.asarray(image.convert(wanted))
    size = expected.shape[:2]
    assert size == ((-(-47 // factor), -(-61 // factor)) if drafted else (47, 61))
    assert np.array_equal(read_file(path, lambda image: bilinear(image, wanted, size, factor=factor)), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("crop", ["resize", "centre", "padded", "random_resized"])
@pytest.mark.parametrize("channels, order", [(1, "RGB"), (3, "RGB"), (3, "BGR")])
def test_images_are_resized_by_opencv(tmp_path: Path, name: str, crop: str, channels: int, order: str) -> None:
    """Of test images, of images in memory, and of random boxes that are less than twice as large as the result."""
    path, size = tmp_path / name, (33, 41)
    noise().save(path)
    split = FileSplit((str(path),), np.zeros(1, np.int64))
    transform = Transform(size, channels, crop, interpolation="bilinear", order=order)
    whole = split.image(0, channels)
    turned = slice(None, None, -1 if order == "BGR" else 1)
    if crop in ("resize", "padded"):
        expected = by_opencv(whole, size)
    else:
        large, box = centre_of(whole, size)
        expected = np.asarray(Image.fromarray(by_opencv(whole, large)).crop(box))
    expected = expected.reshape(*size, channels)[..., turned]
    index = np.zeros(1, np.int64)
    assert np.array_equal(transform.bytes(split, index)[0], expected)
    for image in (whole, whole.copy()):
        assert np.array_equal(transform.one(image)[0], transform.pixels(expected[None]).__array__()[0])
    drawn = draws(0, 0, 0, 20)
    for row in drawn if crop == "random_resized" else ():
        expected = by_opencv(whole.crop(random_box(whole.size, row)), size).reshape(*size, channels)[..., turned]
        assert np.array_equal(transform.bytes(split, index, row[None])[0], expected)


def test_a_box_of_a_jpeg_that_is_decoded_smaller(tmp_path: Path) -> None:
    path, factors = tmp_path / "a.jpg", set()
    noise(643, 485).save(path)
    split, transform = FileSplit((str(path),), np.zeros(1, np.int64)), Transform((30, 40), 3, "random_resized")
    bilinear_ = Transform((30, 40), 3, "random_resized", interpolation="bilinear")
    for row in draws(0, 0, 0, 40):
        left, top, right, bottom = random_box((643, 485), row)
        factor = max(f for f in (1, 2, 4, 8) if (bottom - top) >= 30 * f and (right - left) >= 40 * f)
        factors.add(factor)
        with Image.open(path) as image:
            image.draft(None, (643 // factor, 485 // factor))
            box = (left // factor, top // factor, -(-right // factor), -(-bottom // factor))
            expected = by_opencv(image.crop(box), (30, 40))
        ours = bilinear_.bytes(split, np.zeros(1, np.int64), row[None])[0]
        assert np.array_equal(ours, expected)
        assert not np.array_equal(ours, transform.bytes(split, np.zeros(1, np.int64), row[None])[0])
    assert factors == {2, 4, 8}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", [(47, 61), (300, 401), (448, 448)])
@pytest.mark.parametrize("new", [(33, 41), (224, 224), (500, 350)])
def test_pixels_are_mxnets(tmp_path: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """MXNet has an OpenCV of its own, of another version: the bytes are equal."""
    mx = pytest.importorskip("resnet_xf_mxnet.numpy_compat").mx
    path = tmp_path / "a.jpg"
    noise(*old[::-1]).save(path, quality=95)
    for mode, flag in (("RGB", 1), ("L", 0)):
        if mode == "L":
            noise(*old[::-1]).convert("L").save(path, quality=95)
        decoded = mx.image.imdecode(path.read_bytes(), flag=flag)
        theirs = mx.image.imresize(decoded, new[1], new[0], interp=1).asnumpy()
        ours = read_file(path, lambda image, mode=mode: bilinear(image, mode, new))
        assert np.array_equal(ours.reshape(theirs.shape), theirs)


def test_damaged_files_are_refused_as_by_pillow(tmp_path: Path, capfd) -> None:
    """Files that are cut off, always. With an unknown marker in the file, OpenCV gives the image that Pillow refuses."""
    path, buffer = tmp_path / "a.jpg", io.BytesIO()
    noise().save(buffer, "JPEG")
    whole = buffer.getvalue()
    random, outcomes = np.random.default_rng(0), set()

    def outcome(read) -> str | bytes:
        try:
            return read_file(path, read).tobytes()
        except DataError as error:
            return str(error)

    cut_off = [*(whole[:end] for end in range(1, len(whole), 37)), whole[:-1], whole[:-2]]
    changed = []
    for _ in range(150):
        flipped = bytearray(whole)
        for place in random.integers(2, len(whole), 3):
            flipped[place] = random.integers(256)
        changed.append(bytes(flipped))
    for data in cut_off + changed:
        path.write_bytes(data)
        by_pillow, ours = (
            outcome(lambda image, use=use: use(image, "RGB", image.size[::-1])) for use in (antialiased, bilinear)
        )
        outcomes.add((type(by_pillow), type(ours)))
        if ours != by_pillow:
            assert data not in cut_off
            assert "broken data stream" in by_pillow
    assert outcomes == {(str, str), (bytes, bytes), (str, bytes)}
    assert "WARN" not in capfd.readouterr().err


def test_too_many_pixels_are_refused_before_opencv_decodes(tmp_path: Path, monkeypatch) -> None:
    noise().save(tmp_path / "a.jpg")
    monkeypatch.setattr("resnet_xf.data.images.MOST_PIXELS", 100)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(DataError, match=r"a.jpg: has 61×47 pixels; at most 100 are read$"):
        read_file(tmp_path / "a.jpg", Transform((4, 4), 3, interpolation="bilinear").one)


def test_sixteen_bits_and_palettes_are_decoded_by_pillow(tmp_path: Path) -> None:
    deep = Image.fromarray(np.arange(0, 2**16, 2**8, dtype=np.uint16).reshape(16, 16))
    deep.save(tmp_path / "deep.png")
    noise(16, 16).convert("P").save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        pixels = read_file(path, lambda image: bilinear(image, "RGB", (16, 16)))
        assert np.array_equal(pixels, np.asarray(read_image(path)))


def test_without_opencv_one_line_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    from resnet_xf.data import opencv

    noise().save(tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    opencv._opencv.cache_clear()
    split = FileSplit((str(tmp_path / "a.png"),), np.zeros(1, np.int64))
    line = (
        r"^the recipe's interpolation is bilinear, and images are resized by OpenCV, which is not installed; "
        r"run: pip install 'resnet-xf\[opencv\]'$"
    )
    with pytest.raises(MissingExtraError, match=line):
        tensor(Transform((4, 4), 3, interpolation="bilinear"), split, np.zeros(1, np.int64))
    read_file(tmp_path / "a.png", Transform((4, 4), 3).one)


def test_an_opencv_without_rgb_is_told_and_not_the_image(tmp_path: Path, monkeypatch) -> None:
    import cv2

    from resnet_xf.data import opencv

    noise().save(tmp_path / "a.jpg")
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB")
    opencv._opencv.cache_clear()
    split = FileSplit((str(tmp_path / "a.jpg"),), np.zeros(1, np.int64))
    with pytest.raises(MissingExtraError, match="by OpenCV 4.11 or later, and 4.* is installed; run: pip install"):
        tensor(Transform((4, 4), 3, interpolation="bilinear"), split, np.zeros(1, np.int64))


def test_a_checkpoint_keeps_its_interpolation(tmp_path: Path) -> None:
    """From the recipe into the run's preprocessing, the file's description, and the images of `predict`."""
    pytest.importorskip("resnet_xf_torch")
    from resnet_xf import ResNetSpec, Stage, Stem, predict, train
    from resnet_xf.data import Dataset
    from resnet_xf.training.checkpoint import load_checkpoint
    from resnet_xf.training.inference import prepare
    from resnet_xf.training.recipe import Augmentation, get_recipe

    for number in range(4):
        noise(20 + number, 30).save(tmp_path / f"{number}.jpg")
    split = FileSplit(tuple(str(tmp_path / f"{number}.jpg") for number in range(4)), np.arange(4) % 2)
    stem, stages = Stem(kind="conv3", width=4), (Stage(depth=1, channels=4),)
    tiny = ResNetSpec(name="tiny", stem=stem, stages=stages, num_classes=2, image_size=(12, 12))
    look = Augmentation(crop="random_resized", mean=(0.5,), std=(0.25,), interpolation="bilinear")
    recipe = replace(get_recipe("digits"), epochs=1, batch_size=4, augmentation=look, image_size=None)
    run = train(tiny, Dataset("some", 3, ("a", "b"), split, split), recipe, backend="torch", out=tmp_path / "run")
    assert load_checkpoint(run.path).header.recipe.augmentation.interpolation == "bilinear"
    prepared = prepare(run.path, [split.paths[0]])
    assert prepared.usage.preprocessing.interpolation == "bilinear"
    transform = Transform((12, 12), 3, "centre", mean=(0.5,), std=(0.25,), interpolation="bilinear")
    assert np.array_equal(prepared.inputs[0], read_file(split.paths[0], transform.one))
    assert predict(run.path, [split.paths[0]], backend="torch")


def test_preprocessing_says_how_images_are_resized() -> None:
    from resnet_xf.architecture.plan import plan
    from resnet_xf.formats.description import Description
    from resnet_xf.formats.exports import timm_config

    view = Preprocessing(image_size=(4, 5), interpolation="bilinear")
    assert view.text(3) == "4×5 pixels, crop resize, interpolation bilinear, RGB, values 0…1, mean 0, std 1"
    assert "interpolation" not in replace(view, interpolation="antialias").text(3)
    assert view.transform(3) == Transform((4, 5), 3, interpolation="bilinear")
    with pytest.raises(SpecError, match=r"^resnet18: takes images without antialiasing, and timm's have it; write"):
        timm_config(plan("resnet18"), Description(preprocessing=view))
    with pytest.raises(DataError, match=r"^interpolation: expected one of antialias, bilinear, got 'cubic'$"):
        Transform((4, 5), 3, interpolation="cubic")
