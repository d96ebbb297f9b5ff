import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_xf.data import ArraySplit, Dataset, FileSplit, digits, photographs, sample_images
from resnet_xf.data.images import is_image, read_image
from resnet_xf.data.randomness import permutation
from resnet_xf.data.splits import hold_out, limited, pixel_statistics
from resnet_xf.errors import DataError


def test_photographs_are_normalised_colour_images() -> None:
    images = photographs()
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 1
    assert 0.5 < images.std() < 2
    assert not np.array_equal(images[0], images[1])


def test_photographs_are_cropped_as_torchvision_crops() -> None:
    import torch
    from sklearn.datasets import load_sample_images
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    theirs = torch.stack([transform(Image.fromarray(image)) for image in load_sample_images().images]).numpy()
    assert np.abs(photographs() - theirs).max() < 1e-5


@pytest.mark.parametrize(("bits", "data"), [(12, b"\xf0\x08\x00"), (16, b"\xf0\xf0\x00\x80")])
def test_pixels_of_more_than_8_bits_are_divided_to_8(tmp_path, bits: int, data: bytes) -> None:
    """A TIFF file with two grey pixels, 15/16 and 1/2 of the largest value, in 12 bits (packed) or 16."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "x.tif"
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data)
    assert np.asarray(read_image(path)).tolist() == [[[0xF0] * 3, [0x80] * 3]]


def test_digits_are_grey_and_within_one() -> None:
    images = digits((96, 80))
    assert images.shape == (4, 1, 96, 80)
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_gets_real_images(channels: int) -> None:
    images = sample_images(channels, (40, 30))
    assert images.shape[1:] == (channels, 40, 30)
    assert images.std() > 0.1


def test_a_folder_of_images_is_read_in_order_of_names(tmp_path) -> None:
    for shade in range(10):
        Image.new("RGB", (50, 70), (shade * 20,) * 3).save(tmp_path / f"{shade}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = sample_images(3, (32, 32), tmp_path)
    assert images.shape == (8, 3, 32, 32)
    assert np.all(np.diff(images[:, 0, 0, 0]) > 0)
    assert sample_images(1, (32, 32), tmp_path).shape == (8, 1, 32, 32)


@pytest.mark.parametrize(("suffix", "mode"), [("ppm", "RGB"), ("pgm", "L")])
def test_portable_maps_are_read(suffix: str, mode: str, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    for end in (suffix, "png"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"a.{end}")
    assert is_image(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), read_image(tmp_path / "a.png"))


def test_bad_folders_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="none: no such folder"):
        sample_images(3, (32, 32), tmp_path / "none")
    with pytest.raises(DataError, match="holds no image"):
        sample_images(3, (32, 32), tmp_path)
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png: not readable as an image"):
        sample_images(3, (32, 32), tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.png: not readable as an image"):
        sample_images(3, (32, 32), tmp_path)


def test_a_grey_network_is_shown_digits_and_another_one_photographs() -> None:
    assert np.array_equal(sample_images(1, (32, 24)), digits((32, 24)))
    assert np.array_equal(sample_images(3, (32, 24)), photographs((32, 24)))


def test_mean_and_deviation_of_pixels_are_numpy_s() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 3, 4, 3), np.uint8)
    mean, std = pixel_statistics(ArraySplit(pixels, np.zeros(1500, np.int64)), 3)
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), rel=1e-12)
    assert len(set(std)) == 3


def test_the_deviation_of_equal_pixels_is_a_step_of_their_bytes() -> None:
    assert pixel_statistics(ArraySplit(np.zeros((2, 3, 4, 1), np.uint8), np.zeros(2, np.int64)), 1) == (
        (0.0,),
        (1 / 255,),
    )


def test_a_limit_may_be_one_image_and_statistics_cover_every_file_of_few(tmp_path) -> None:
    images = [Image.new("L", (2, 2), value) for value in (0, 255)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    split = FileSplit(tuple(str(tmp_path / f"{number}.png") for number in range(2)), np.zeros(2, np.int64))
    assert pixel_statistics(split, 1) == ((0.5,), (0.5,))
    assert len(limited(Dataset("two", 1, ("a",), split, split), 1, seed=0).train) == 1


@given(st.lists(st.integers(0, 12).filter(lambda count: count != 1), min_size=1, max_size=8), st.randoms())
def test_the_images_that_are_held_out_are_always_the_same(counts: list[int], random: Random) -> None:
    """A fifth of each class, in a fixed order of all images: a run of an earlier version goes on."""
    drawn = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(drawn)
    labels, shuffled = np.array(drawn, np.int64), permutation("parted", len(drawn))
    held_out = np.zeros(len(labels), bool)
    for label in range(len(counts)):
        members = shuffled[labels[shuffled] == label]
        held_out[members[: max(1, round(0.2 * len(members)))]] = True
    split = ArraySplit(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    train, test = hold_out("some", split, tuple(map(str, range(len(counts)))))
    assert train.images.ravel().tolist() == np.flatnonzero(~held_out).tolist()
    assert test.images.ravel().tolist() == np.flatnonzero(held_out).tolist()


@pytest.mark.parametrize("size", [(1010, 10), (10, 1010)])
def test_an_image_that_is_too_oblong_is_refused(tmp_path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"has {size[0]}×{size[1]} pixels; at most 100 times as many along one side"):
        read_image(tmp_path / "a.png")
