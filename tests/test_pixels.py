"""Batches of bytes: the tensors that backends make of them, kept images, and any number of threads and workers."""

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from helpers.images import tensor
from resnet_xf.data import Batches, FileSplit, Kept, Transform, draws, keep, kept_memory
from resnet_xf.data.images import all_resized, resized
from resnet_xf.data.splits import ArraySplit
from resnet_xf.data.transform import random_box
from resnet_xf.support.environment import processors

CROPS = ["resize", "centre", "padded", "random_resized"]


def array_split(count: int = 40, channels: int = 3) -> ArraySplit:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 9, 7, channels), np.uint8)
    return ArraySplit(pixels, np.arange(count) % 3)


@pytest.fixture
def file_split(tmp_path) -> FileSplit:
    arrays = array_split()
    for index, pixels in enumerate(arrays.images):
        Image.fromarray(pixels).resize((30 + index, 25)).save(tmp_path / f"{index:02}.jpg")
    return FileSplit(tuple(map(str, sorted(tmp_path.iterdir()))), arrays.labels)


def test_a_look_up_is_todays_arithmetic() -> None:
    """The arithmetic of the first version, written once more."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = Transform((9, 7), 3, mean=mean, std=std)
    table = transform.normalisation.table
    assert (table.shape, table.dtype) == ((3, 256), np.float32)
    for row, m, s in zip(table, mean, std, strict=True):
        for byte in range(256):
            assert row[byte] == (np.float32(byte) / np.float32(255) - np.float32(m)) / np.float32(s)
    images = array_split().images
    looked_up = np.stack([row[images[..., channel]] for channel, row in enumerate(table)], 1)
    assert np.array_equal(looked_up, np.asarray(transform.pixels(images)))
    assert np.asarray(transform.pixels(images), np.float64).dtype == np.float64


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(9, 7), (12, 15)])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_made_on_a_device_are_the_arrays(channels: int, crop: str, size: tuple[int, int], order: str) -> None:
    torch = pytest.importorskip("torch")
    from resnet_xf_torch.pixels import DevicePixels

    sent = []

    def send(array):
        sent.append(array.nbytes)
        return torch.from_numpy(np.ascontiguousarray(array))

    split, device = array_split(channels=channels), DevicePixels(send, torch.device("cpu"))
    transform = Transform(size, channels, crop, True, 2, (0.3,), (0.21,), order)
    kept, _ = keep(split, transform, 10**6, training=True)
    for epoch in range(3):
        for batch in Batches(split, transform, 16, seed=1, epoch=epoch, kept=kept, threads=2):
            sent.clear()
            made = device(batch.pixels)
            number = draws(1, epoch, batch.number * 16, len(batch.indices))
            assert made.is_contiguous(memory_format=torch.channels_last)
            assert np.array_equal(made.numpy(), batch.images)
            assert np.array_equal(made.numpy(), tensor(transform, split, batch.indices, number))
            if epoch and kept:  # indices, mirroring and corners alone
                assert batch.pixels.fixed
                assert sum(sent) <= len(batch.indices) * (8 + 1 + 16)


@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_mxnets_tensors_made_on_a_device_are_the_arrays(channels: int, numpy: bool) -> None:
    mx = pytest.importorskip("resnet_xf_mxnet.numpy_compat").mx
    from resnet_xf_mxnet.arrays import kind, on_device

    transform = Transform((9, 7), channels, "padded", True, 2, (0.3,), (0.21,))
    for batch in Batches(array_split(channels=channels), transform, 16, seed=1):
        with kind(numpy):
            assert np.array_equal(on_device(batch.pixels, mx.cpu()).asnumpy(), batch.images)


@pytest.mark.parametrize("interpolation", ["antialias", "bilinear"])
@pytest.mark.parametrize("crop", CROPS)
def test_batches_are_the_same_for_any_threads_and_workers_and_when_kept(
    crop: str, interpolation: str, file_split: FileSplit
) -> None:
    transform = Transform((12, 15), 3, crop, True, 2, (0.3,), (0.21,), interpolation=interpolation)

    def epoch(number: int, threads: int, workers: int, kept: list[Kept | None]) -> list[np.ndarray]:
        ranks = [
            Batches(
                file_split, transform, 18, seed=2, epoch=number, rank=rank, workers=workers, threads=threads, kept=one
            )
            for rank, one in enumerate(kept)
        ]
        whole = []
        for parts in zip(*ranks, strict=True):
            batch = np.empty((parts[0].size, 3, 12, 15), np.float32)
            for rank, part in enumerate(parts):
                batch[rank::workers] = part.images
            whole.append(batch)
        return whole

    for number in range(2):
        expected = [
            tensor(transform, file_split, batch.indices, draws(2, number, batch.number * 18, batch.size))
            for batch in Batches(file_split, transform, 18, seed=2, epoch=number)
        ]
        for threads in (1, 2, 8):
            for workers in (1, 2):
                kept = [keep(file_split, transform, 10**6, training=True)[0] for _ in range(workers)]
                for stores in ([None] * workers, kept, kept):
                    for ours, theirs in zip(epoch(number, threads, workers, stores), expected, strict=True):
                        assert np.array_equal(ours, theirs)


def test_images_are_read_once_if_they_are_kept(file_split: FileSplit) -> None:
    read = []

    class Counting(FileSplit):
        def read(self, index, use):
            read.append(int(index))
            return super().read(index, use)

    split = Counting(file_split.paths, file_split.labels)
    transform = Transform((12, 15), 3, "centre")
    kept, left = keep(split, transform, 40 * 12 * 15 * 3 + 5, training=True)
    assert left == 5
    assert kept
    first = next(iter(Batches(split, transform, 16, seed=0, kept=kept, threads=1)))
    assert not first.pixels.fixed
    for epoch in range(3):
        list(Batches(split, transform, 16, seed=0, epoch=epoch, kept=kept))
    assert sorted(read) == list(range(40))
    assert kept.complete()


def test_what_does_not_fit_or_is_never_the_same_is_not_kept(file_split: FileSplit) -> None:
    transform, boxes = Transform((12, 15), 3, "centre"), Transform((12, 15), 3, "random_resized")
    assert keep(file_split, transform, 40 * 12 * 15 * 3 - 1, training=True) == (None, 40 * 12 * 15 * 3 - 1)
    assert keep(file_split, boxes, 10**6, training=True) == (None, 10**6)
    assert keep(file_split, boxes, 10**6, training=False)[0]
    split = array_split()
    kept, left = keep(split, Transform((9, 7), 3), 0, training=True)  # in memory already
    assert left == 0
    assert kept
    assert kept.store is split.images
    assert kept_memory(7) == 7
    assert kept_memory(None) > 2**20


def smooth(width: int, height: int) -> Image.Image:
    """A picture without noise, which JPEG keeps."""
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / (20 + 5 * k)) + np.cos(across / (30 + 5 * k)) for k in range(3)]
    return Image.fromarray((np.stack(waves, -1) * 60 + 127).astype(np.uint8))


@pytest.mark.parametrize("name, mode", [("a.jpg", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.png", "RGB")])
def test_jpegs_are_decoded_smaller_where_the_box_stays_larger(name: str, mode: str, tmp_path) -> None:
    path, factors = tmp_path / name, set()
    smooth(641, 483).convert(mode).save(path)
    decoded = []

    class Watched(FileSplit):
        def read(self, index, use):
            def watched(image):
                result = use(image)
                decoded.append(image.size)
                return result

            return super().read(index, watched)

    split, whole = Watched((str(path),), np.zeros(1, np.int64)), Image.open(path).convert("RGB")
    transform = Transform((30, 40), 3, "random_resized")
    for drawn in draws(0, 0, 0, 40):
        box = random_box(whole.size, drawn)
        least = min((box[2] - box[0]) / 40, (box[3] - box[1]) / 30)
        exact = np.asarray(resized(whole.crop(box), (30, 40)), np.float32)
        ours = transform.bytes(split, np.zeros(1, np.int64), drawn[None])[0].astype(np.float32)
        width, height = decoded[-1]
        factor = round(whole.width / width)
        factors.add(factor)
        assert (width, height) == (-(-641 // factor), -(-483 // factor))
        assert factor == 1 or factor <= least
        assert np.abs(ours - exact).mean() < 4
        if factor == 1:
            assert np.array_equal(ours, exact)
    assert factors == ({1} if name == "a.png" else {2, 4, 8})


def test_all_processors_prepare_batches() -> None:
    assert Batches(array_split(), Transform((9, 7), 3), 4).threads == processors()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (20, 31), (5, 4), (5, 31), (20, 4), (9, 31), (1, 1)])
def test_images_resized_together_are_those_resized_alone(size: tuple[int, int], channels: int) -> None:
    images = array_split(20, channels).images
    for one, image in zip(all_resized(images, size), images, strict=True):
        alone = resized(Image.fromarray(image[:, :, 0] if channels == 1 else image), size)
        assert np.array_equal(one, np.asarray(alone).reshape(one.shape))
    assert all_resized(images[:0], size).shape == (0, *size, channels)


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_learners_take_bytes_as_they_take_arrays(backend: str) -> None:
    pytest.importorskip(f"resnet_xf_{backend}")
    import resnet_xf
    from resnet_xf.architecture.plan import plan
    from resnet_xf.testing import SPEC
    from resnet_xf.training.evaluation import task_of
    from resnet_xf.training.recipe import get_recipe

    planned = plan(SPEC)
    weights = resnet_xf.draw_weights(planned, seed=0)
    batches = list(Batches(array_split(12), Transform((67, 61), 3, flip=True, mean=(0.4,)), 6, seed=0))
    goal = np.eye(7)[batches[0].labels] / 6
    results = []
    for of in (lambda batch: batch.images, lambda batch: batch.pixels):
        learner = resnet_xf.get_backend(backend).learner(task_of(planned, get_recipe("digits"), "cpu"))
        learner.load(weights, {})
        loss, outputs = learner.step(of(batches[0]), goal, 0.125)()
        put, _ = learner.step(learner.put(of(batches[1])), goal, 0.125)()
        results.append((loss, put, outputs.tolist(), learner.outputs(of(batches[1])).tolist()))
    assert results[0] == results[1]


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_training_is_the_same_whether_images_are_kept_or_not(backend: str, file_split: FileSplit) -> None:
    pytest.importorskip(f"resnet_xf_{backend}")
    from resnet_xf import ResNetSpec, Stage, Stem, train
    from resnet_xf.data import Dataset
    from resnet_xf.training.recipe import Augmentation, get_recipe

    stem, stages = Stem(kind="conv3", width=4), (Stage(depth=1, channels=4),)
    tiny = ResNetSpec(name="tiny", stem=stem, stages=stages, num_classes=3, image_size=(12, 12))
    data = Dataset("some", 3, ("a", "b", "c"), file_split, file_split.take(np.arange(6)))
    look = Augmentation(crop="padded", flip=True)
    recipe = replace(get_recipe("digits"), epochs=2, batch_size=8, augmentation=look)
    runs = [train(tiny, data, recipe, backend=backend, device="cpu", max_memory=memory) for memory in (1, None)]
    assert [record.test_loss for record in runs[0].history] == [record.test_loss for record in runs[1].history]
    for name, array in runs[0].weights.items():
        assert np.array_equal(array, runs[1].weights[name])
