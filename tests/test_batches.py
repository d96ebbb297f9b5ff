import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.images import tensor
from resnet_xf.data import DRAWS, ArraySplit, Batches, FileSplit, Transform, draws, order, share
from resnet_xf.data.pixels import cropped
from resnet_xf.data.transform import FLIP, PLACE, corners_of, random_box
from resnet_xf.errors import DataError

small = st.integers(0, 40)
seeds = st.integers(-(2**70), 2**70)
CROPS = ("resize", "centre", "padded", "random_resized")


def array_split(count: int, height: int = 6, width: int = 5, channels: int = 1) -> ArraySplit:
    shape = (count, height, width, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ArraySplit(pixels, np.arange(count) % 3)


def images(count: int) -> list[Image.Image]:
    """Smooth, oblong pictures of several sizes."""
    made = []
    for number in range(count):
        height, width = 40 + 7 * number, 90 - 11 * number
        down, across = np.mgrid[:height, :width]
        planes = [(down * 3 + across * (number + k)) % 256 for k in range(3)]
        made.append(Image.fromarray(np.stack(planes, -1).astype(np.uint8)))
    return made


@pytest.fixture
def files(tmp_path) -> FileSplit:
    for number, image in enumerate(images(5)):
        image.save(tmp_path / f"{number}.png")
    return FileSplit(tuple(map(str, sorted(tmp_path.iterdir()))), np.arange(5))


@given(seeds, small, small)
def test_an_order_is_a_permutation(seed: int, epoch: int, count: int) -> None:
    assert sorted(order(seed, epoch, count)) == list(range(count))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    first_places = np.bincount([order(0, epoch, 4)[0] for epoch in range(400)])
    assert np.all(np.abs(first_places - 100) < 40)


def test_orders_and_draws_are_these_for_ever() -> None:
    """What the first version gave: a run resumed later must go on alike."""
    assert order(1, 2, 8).tolist() == ORDER
    assert draws(1, 2, 3, 1)[0, :3].tolist() == NUMBERS


ORDER = [6, 7, 4, 5, 3, 1, 2, 0]
NUMBERS = [0.9311426012007784, 0.8115814869046455, 0.2806841651369002]


@given(seeds, small, small, small)
def test_draws_at_any_start_are_a_slice_of_all(seed: int, epoch: int, start: int, count: int) -> None:
    whole = draws(seed, epoch, 0, start + count)
    assert whole.shape == (start + count, DRAWS)
    assert np.array_equal(draws(seed, epoch, start, count), whole[start:])


def test_draws_are_uniform_and_far_ones_cost_nothing() -> None:
    drawn = draws(0, 0, 10**12, 2000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.all(np.abs(drawn.mean(0) - 0.5) < 0.04)
    assert np.all(np.abs(drawn.var(0) - 1 / 12) < 0.01)
    assert len(np.unique(drawn)) == drawn.size


@given(st.integers(0, 30), st.integers(1, 7))
def test_shares_are_a_partition(count: int, workers: int) -> None:
    batch = np.arange(count)
    shares = [share(batch, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(shares)) == list(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=25)
@given(
    count=st.integers(1, 25),
    batch_size=st.integers(1, 9),
    workers=st.integers(1, 4),
    crop=st.sampled_from(CROPS),
    training=st.booleans(),
    data=st.data(),
)
def test_a_sample_is_the_same_however_an_epoch_is_cut(count, batch_size, workers, crop, training, data) -> None:
    split, transform = array_split(count), Transform((6, 5), 1, crop, flip=True, padding=2)
    seed = 3 if training else None
    (whole,) = Batches(split, transform, count, seed=seed, epoch=1)
    first = data.draw(st.integers(0, -(-count // batch_size)))
    ranks = [
        list(Batches(split, transform, batch_size, seed=seed, epoch=1, first=first, rank=rank, workers=workers))
        for rank in range(workers)
    ]
    sizes = []
    for parts in zip(*ranks, strict=True):
        start = parts[0].number * batch_size
        assert {(part.number, part.size) for part in parts} == {(first + len(sizes), min(batch_size, count - start))}
        sizes.append(parts[0].size)
        for rank, part in enumerate(parts):
            mine = slice(start + rank, start + parts[0].size, workers)
            assert np.array_equal(part.indices, whole.indices[mine])
            assert np.array_equal(part.images, whole.images[mine])
            assert np.array_equal(part.labels, whole.labels[mine])
            assert part.images.dtype == np.float32
            assert part.images.flags.c_contiguous
    assert sum(sizes) == max(0, count - first * batch_size)


def test_evaluation_is_in_natural_order_and_training_is_not() -> None:
    split, transform = array_split(20), Transform((6, 5), 1)
    tested = np.concatenate([batch.indices for batch in Batches(split, transform, 6)])
    learnt = np.concatenate([batch.indices for batch in Batches(split, transform, 6, seed=0)])
    assert tested.tolist() == list(range(20))
    assert learnt.tolist() == order(0, 0, 20).tolist() != tested.tolist()


def test_the_last_batch_is_small_or_dropped() -> None:
    split, transform = array_split(20), Transform((6, 5), 1)
    kept, dropped = Batches(split, transform, 6), Batches(split, transform, 6, drop_last=True, first=1)
    assert [batch.size for batch in kept] == [6, 6, 6, 2]
    assert [batch.size for batch in dropped] == [6, 6]
    assert (len(kept), kept.total, len(dropped), dropped.total) == (4, 4, 2, 3)
    assert len(Batches(split, transform, 6, first=9)) == 0
    assert list(Batches(split, transform, 6, first=9)) == []


@pytest.mark.parametrize(
    "given_, message",
    [
        ({"batch_size": 0}, "batch size: expected 1 or more, got 0"),
        ({"rank": 2, "workers": 2}, "rank: expected 0…1, being one of 2 workers, got 2"),
        ({"batch_size": 50, "drop_last": True}, "batch size: 50 leaves no batch of 20 images"),
    ],
)
def test_numbers_without_sense_are_refused(given_, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batches(array_split(20), Transform((6, 5), 1), **{"batch_size": 4, **given_})


def background() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_threads_end_when_iteration_is_left_and_stay_a_few_batches_ahead() -> None:
    made = []

    class Counting(ArraySplit):
        def stack(self, indices, shape):
            made.append(len(indices))
            return super().stack(indices, shape)

    split = Counting(*vars(array_split(1000)).values())
    batches = Batches(split, Transform((6, 5), 1), 1, seed=0, threads=2)
    for batch in batches:
        assert background()
        time.sleep(0.05)
        if batch.number == 3:
            break
    assert not background()
    assert len(made) <= 8
    assert batches is not iter(batches)
    assert next(iter(batches)).number == 0


def test_what_fails_in_a_thread_is_raised_as_itself_where_its_batch_would_come(files, tmp_path) -> None:
    (tmp_path / "2.png").write_bytes(b"no image")
    came = []
    with pytest.raises(DataError, match=r"2\.png: not readable as an image"):
        came.extend(batch.number for batch in Batches(files, Transform((8, 8), 3), 1))
    assert came == [0, 1]
    assert not background()


def torchs_tensor(image: Image.Image) -> np.ndarray:
    from torchvision.transforms.functional import to_tensor

    return to_tensor(image).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (20, 57), (96, 64)])
@pytest.mark.parametrize("crop", ["resize", "centre"])
def test_whole_and_centre_are_torchvisions(files, crop: str, size: tuple[int, int], channels: int) -> None:
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    mean, std = ((0.3,), (0.2,)) if channels == 1 else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = Transform(size, channels, crop, mean=mean, std=std)
    ours = tensor(transform, files, np.arange(5))
    assert np.array_equal(ours, tensor(transform, files, np.arange(5), draws(0, 0, 0, 5)))
    for image, row in zip(images(5), ours, strict=True):
        grey = image.convert("L" if channels == 1 else "RGB")
        assert np.array_equal(transform.one(image)[0], row)
        if crop == "centre":  # torchvision takes the shorter side: of an oblong size, the one that needs more
            height, width = size
            tall = height * grey.width >= width * grey.height
            short = round((height if tall else width) * 8 / 7)
            if (grey.height <= grey.width) != tall:
                continue
            frame = [Resize(short), CenterCrop(size)]
        else:
            frame = [Resize(size)]
        theirs = Compose([*frame, ToTensor(), Normalize(mean, std)])(grey).numpy()
        assert np.array_equal(row, theirs)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 2**40), st.sampled_from([1, 3]))
def test_padded_crops_are_torchvisions_at_the_same_place(padding: int, start: int, channels: int) -> None:
    from torchvision.transforms.functional import crop, hflip, pad

    split, drawn = array_split(8, 9, 7, channels), draws(0, 0, start, 8)
    ours = tensor(Transform((9, 7), channels, "padded", True, padding), split, np.arange(8), drawn)
    for index, row in enumerate(ours):
        top, left = (int(u * (2 * padding + 1)) for u in drawn[index, PLACE])
        theirs = crop(pad(split.image(index, channels), padding), top, left, 9, 7)
        assert np.array_equal(row, torchs_tensor(hflip(theirs) if drawn[index, FLIP] < 0.5 else theirs))


def test_padded_crops_reach_every_place() -> None:
    pixels = np.zeros((2000, 5, 5, 1), np.uint8)
    pixels[:, 2, 2] = 1
    moved = cropped(pixels, 2, corners_of(2, draws(0, 0, 0, 2000)[:, PLACE]))
    counts = moved.sum(0)[..., 0].astype(int)
    assert counts.sum() == 2000
    assert counts.min() > 40


def test_random_boxes_are_torchvisions_for_the_same_draws(monkeypatch) -> None:
    """Its own code, asked for the same numbers: uniform ones in turn, and places within what room there is."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    fallbacks = 0
    for number, drawn in enumerate(draws(0, 0, 0, 300)):
        width, height = [(90, 40), (40, 90), (64, 64), (400, 9), (9, 400), (3, 3), (401, 9)][number % 7]
        uniform, places = iter(drawn.tolist()), iter(drawn[PLACE].tolist())

        def next_uniform(tensor, low, high, uniform=uniform):
            return torch.full((1,), float(low + next(uniform) * (high - low)), dtype=torch.float64)

        def next_place(low, high, size, places=places):
            return torch.tensor([int(next(places) * high)])

        monkeypatch.setattr(torch.Tensor, "uniform_", next_uniform)
        monkeypatch.setattr(torch, "randint", next_place)
        top, left, down, across = RandomResizedCrop.get_params(
            Image.new("L", (width, height)), [0.08, 1.0], [3 / 4, 4 / 3]
        )
        monkeypatch.undo()
        fallbacks += next(uniform) == drawn[20]
        assert random_box((width, height), drawn) == (left, top, left + across, top + down)
    assert fallbacks > 30


def test_random_boxes_are_cut_and_resized_as_torchvision_does(files) -> None:
    from torchvision.transforms.functional import hflip, resized_crop

    drawn = draws(0, 0, 0, 5)
    ours = tensor(Transform((24, 31), 3, "random_resized", flip=True), files, np.arange(5), drawn)
    for image, row, numbers in zip(images(5), ours, drawn, strict=True):
        left, top, right, bottom = random_box(image.size, numbers)
        theirs = resized_crop(image, top, left, bottom - top, right - left, [24, 31])
        assert np.array_equal(row, torchs_tensor(hflip(theirs) if numbers[FLIP] < 0.5 else theirs))


@pytest.mark.parametrize("crop", CROPS)
def test_arrays_and_files_give_the_same_numbers(crop: str, tmp_path) -> None:
    arrays = array_split(6, 12, 12, 3)
    for index, pixels in enumerate(arrays.images):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    files = FileSplit(tuple(map(str, sorted(tmp_path.iterdir()))), arrays.labels)
    transform = Transform((12, 12), 3, crop, flip=True, padding=2)
    for given_ in ({}, {"seed": 4}):
        (ours,), (theirs,) = Batches(arrays, transform, 6, **given_), Batches(files, transform, 6, **given_)
        assert np.array_equal(ours.images, theirs.images)


def test_half_of_the_images_are_mirrored_and_the_split_is_left_as_it_was() -> None:
    split = array_split(1000)
    before = split.images.copy()
    (plain,) = Batches(split, Transform((6, 5), 1), 1000, seed=0)
    (flipped,) = Batches(split, Transform((6, 5), 1, flip=True), 1000, seed=0)
    mirrored = np.all(flipped.images == plain.images[..., ::-1], axis=(1, 2, 3))
    assert np.all(np.all(flipped.images == plain.images, axis=(1, 2, 3)) ^ mirrored)
    assert 440 < mirrored.sum() < 560
    assert np.array_equal(split.images, before)


def test_channels_are_converted() -> None:
    grey, colour = array_split(4, channels=1), array_split(4, channels=3)
    spread = tensor(Transform((6, 5), 3), grey, np.arange(4))
    assert np.array_equal(spread, np.repeat(tensor(Transform((6, 5), 1), grey, np.arange(4)), 3, axis=1))
    assert tensor(Transform((6, 5), 1), colour, np.arange(4)).shape == (4, 1, 6, 5)


@pytest.mark.parametrize(
    "given_, message",
    [
        ({"size": (0, 5)}, r"size: expected a height and a width of at least 1, got \(0, 5\)"),
        ({"channels": 4}, r"channels: expected 1 \(grey\) or 3 \(red, green, blue\), got 4"),
        ({"crop": "none"}, "crop: expected one of resize, centre, padded, random_resized, got 'none'"),
        ({"padding": -1}, "padding: expected 0 or more, got -1"),
        ({"mean": (0.1, 0.2)}, r"mean: expected one number or 3, got \(0.1, 0.2\)"),
        ({"std": (0.1, 0.2, 0.0)}, "std: expected one number or 3, above 0"),
    ],
)
def test_transforms_without_sense_are_refused(given_, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Transform(**{"size": (6, 5), "channels": 3, **given_})


def test_a_batch_of_the_right_size_takes_no_time() -> None:
    split, transform = array_split(2000, 28, 28), Transform((28, 28), 1, flip=True)
    times = []
    for start in range(20):
        began = time.perf_counter()
        tensor(transform, split, order(0, start, 2000)[:256], draws(0, 0, start, 256))
        times.append(time.perf_counter() - began)
    assert min(times) < 3e-3


def test_images_are_enlarged_a_few_batches_at_a_time() -> None:
    split = ArraySplit(np.zeros((60_000, 28, 28, 1), np.uint8), np.zeros(60_000, np.int64))
    batch = 64 * 96 * 96 * 4
    tracemalloc.start()
    try:
        for batch_ in Batches(split, Transform((96, 96), 1), 64, seed=0, threads=2):
            if batch_.number == 40:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * batch < 0.02 * (60_000 * 96 * 96 * 4)


def test_which_random_numbers_set_a_padded_crop_and_its_mirroring() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8)
    split = ArraySplit(pixels, np.zeros(1, np.int64))
    transform = Transform((4, 4), 1, "padded", flip=True, padding=1)
    drawn = np.full((1, DRAWS), 0.6)
    whole = tensor(transform, split, np.arange(1), drawn)
    matter = []
    for column in range(DRAWS):
        other = drawn.copy()
        other[0, column] = 0.1
        if not np.array_equal(tensor(transform, split, np.arange(1), other), whole):
            matter.append(column)
    assert matter == [20, 21, 22]
