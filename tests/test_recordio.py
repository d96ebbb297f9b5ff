"""MXNet writes the files and reads them; we read the same images, labels and order without it."""

import gc
import io
import runpy
import struct
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import resnet_xf
from helpers.runs import TINY
from resnet_xf import get_recipe
from resnet_xf.data import load_dataset
from resnet_xf.data.recordio import BLOCK, HEADER, MAGIC, PART, RecordSplit, _read
from resnet_xf.errors import DataError
from resnet_xf_mxnet.numpy_compat import mx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""MXNet's own."""

IM2REC = Path(mx.__file__).parent / "tools" / "im2rec.py"
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 16, 20, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


PNGS = [encoded(pixels, "png") for pixels in COLOURS]
LABELS = [0, 2, 1] * 4


def write(path: Path, records: list[bytes], index: bool = True) -> Path:
    """Write records by MXNet."""
    if index:
        file = mx.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "w")
        for number, record in enumerate(records):
            file.write_idx(number, record)
    else:
        file = mx.recordio.MXRecordIO(str(path), "w")
        for record in records:
            file.write(record)
    file.close()
    return path


def packed(labels=LABELS, images=PNGS) -> list[bytes]:
    pairs = enumerate(zip(labels, images, strict=True))
    return [mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image) for number, (label, image) in pairs]


def whole(path: Path) -> RecordSplit:
    return _read(path)[0]


def assert_is_what_mxnet_reads(split: RecordSplit, path: Path, width: int = 1) -> None:
    """MXNet's two iterators give these labels and, to the bit, these pixels, in this order."""
    images = [np.asarray(split.image(number, 3)) for number in range(len(split))]
    if path.with_suffix(".idx").exists():
        theirs = mx.gluon.data.vision.ImageRecordDataset(str(path))
        assert len(theirs) == len(split)
        for number, (image, our_label) in enumerate(zip(images, split.labels, strict=True)):
            pixels, label = theirs[number]
            assert np.array_equal(pixels.asnumpy(), image)
            assert np.asarray(label).ravel()[0] == our_label
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(path), data_shape=(3, 16, 20), batch_size=1, preprocess_threads=1, label_width=width
    )
    batches = [(batch.data[0].asnumpy(), batch.label[0].asnumpy()) for batch in iterator]
    assert len(batches) == len(split)
    for (pixels, label), image, our_label in zip(batches, images, split.labels, strict=True):
        assert np.array_equal(pixels[0].transpose(1, 2, 0), image)
        assert label.ravel()[0] == our_label


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kind, settings", [("png", {}), ("jpeg", {"quality": 90}), ("jpeg", {"quality": 40})])
def test_mxnets_records_are_what_mxnet_reads(tmp_path, index: bool, kind: str, settings: dict) -> None:
    images = [encoded(pixels, kind, **settings) for pixels in COLOURS]
    path = write(tmp_path / "x.rec", packed(images=images), index)
    split = whole(path)
    assert split.labels.tolist() == LABELS
    assert_is_what_mxnet_reads(split, path)
    if kind == "png":
        assert all(np.array_equal(np.asarray(split.image(n, 3)), COLOURS[n]) for n in range(12))


def im2rec(monkeypatch, *arguments: object) -> None:
    """Run MXNet's own tool."""
    monkeypatch.setattr("sys.argv", ["im2rec", *map(str, arguments)])
    runpy.run_path(str(IM2REC), run_name="__main__").clear()
    gc.collect()  # it does not close the file that it writes


@pytest.mark.parametrize(
    "options", [("--encoding", ".png", "--quality", "3"), ("--quality", "80"), ("--pass-through",)]
)
def test_im2recs_files_are_what_mxnet_reads(tmp_path, monkeypatch, options: tuple[str, ...]) -> None:
    pytest.importorskip("cv2")
    for number, pixels in enumerate(COLOURS):
        folder = tmp_path / "images" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{'png' if number % 2 else 'jpg'}").write_bytes(
            encoded(pixels, "png" if number % 2 else "jpeg")
        )
    im2rec(
        monkeypatch,
        "--list",
        "--recursive",
        "--train-ratio",
        "0.5",
        "--test-ratio",
        "0.25",
        tmp_path / "x",
        tmp_path / "images",
    )
    im2rec(monkeypatch, tmp_path / "x", tmp_path / "images", *options)
    dataset = load_dataset(f"recordio:{tmp_path / 'x_train.rec'}")
    assert dataset.classes == ("a", "b", "c")
    assert (len(dataset.train), len(dataset.test)) == (6, 3)
    assert_is_what_mxnet_reads(dataset.train, tmp_path / "x_train.rec")
    assert_is_what_mxnet_reads(dataset.test, tmp_path / "x_test.rec")
    other = load_dataset(f"recordio:{tmp_path / 'x_val.rec'}")
    assert (len(other.train), len(other.test)) == (6, 3)


def test_a_shuffled_index_sets_the_order_as_in_gluon(tmp_path) -> None:
    path = write(tmp_path / "x.rec", packed())
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join(lines[number] for number in (5, 3, 0, 1, 2, 4, 11, 10, 9, 8, 7, 6)))
    split, theirs = whole(path), mx.gluon.data.vision.ImageRecordDataset(str(path))
    for number in range(len(theirs)):
        pixels, label = theirs[number]
        assert np.array_equal(pixels.asnumpy(), split.image(number, 3))
        assert label == split.labels[number]


def test_of_several_labels_the_first_is_the_class(tmp_path) -> None:
    path = write(tmp_path / "x.rec", packed([[label, 0.5, 7] for label in LABELS]))
    assert whole(path).labels.tolist() == LABELS
    assert_is_what_mxnet_reads(whole(path), path, width=3)
    path = write(tmp_path / "y.rec", packed([[label] for label in LABELS], PNGS))
    assert whole(path).labels.tolist() == LABELS
    assert_is_what_mxnet_reads(whole(path), path)
    path = write(tmp_path / "z.rec", packed([[label, 5, 1, 0.1, 0.2, 0.3, 0.4] for label in LABELS]))
    assert whole(path).labels.tolist() == LABELS
    path = write(tmp_path / "boxes.rec", packed([[2, 5, label, 0.1, 0.2, 0.3, 0.4] for label in LABELS]))
    with pytest.raises(DataError, match=r"each record begin with 2 and 5, as of boxes; a file for object detec"):
        whole(path)


def test_records_that_hold_the_magic_number_are_joined(tmp_path) -> None:
    """MXNet cuts them into parts. A PNG may have anything after its end."""
    images = [PNGS[0] + bytes(-len(PNGS[0]) % 4) + MAGIC * count + b"end"[:count] for count in range(4)]
    labels = [0, *[[label, struct.unpack("<f", MAGIC)[0]] for label in (1, 2, 3)]]
    for name, chosen in (("one", [0, 1, 0, 1]), ("several", [[0, 1], *labels[1:]])):
        path = write(tmp_path / f"{name}.rec", packed(chosen, images))
        assert path.read_bytes().count(MAGIC) > 4
        split = whole(path)
        assert_is_what_mxnet_reads(split, path, np.size(chosen[0]))
        assert all(np.array_equal(np.asarray(split.image(n, 3)), COLOURS[0]) for n in range(4))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_other_kinds_of_png_are_what_mxnet_reads(tmp_path, mode: str) -> None:
    if mode == "I;16":
        images = [encoded(pixels[..., 0].astype("<u2") * 251, "png") for pixels in COLOURS]
    else:
        images = [
            encoded(np.asarray(Image.fromarray(p).convert(mode)), "png") if mode != "P" else encoded(p, "png")
            for p in COLOURS
        ]
    path = write(tmp_path / "x.rec", packed(images=images))
    assert_is_what_mxnet_reads(whole(path), path)


def test_halves_are_found_by_their_names(tmp_path) -> None:
    write(tmp_path / "x.rec", packed())
    dataset = load_dataset(f"recordio:{tmp_path / 'x.rec'}")
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.channels == 3
    write(tmp_path / "val.rec", packed([0] * 12))
    dataset = load_dataset(f"recordio:{tmp_path / 'val.rec'}")
    assert (len(dataset.train), len(dataset.test)) == (0, 12)
    write(tmp_path / "train.rec", packed())
    for name in ("train", "val"):
        dataset = load_dataset(f"recordio:{tmp_path / name}.rec")
        assert dataset.train.labels.tolist() == LABELS
        assert dataset.test.labels.tolist() == [0] * 12
        assert len(dataset.classes) == 3
    (tmp_path / "synset.txt").write_text(
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850 great white shark\n"
    )
    assert load_dataset(dataset.name).classes[2] == "n01484850 great white shark"


def test_a_list_names_the_classes_and_is_compared(tmp_path) -> None:
    path = write(tmp_path / "x.rec", packed())
    lines = [f"{number}\t{label:f}\t{'abc'[label]}/{number}.png" for number, label in enumerate(LABELS)]
    path.with_suffix(".lst").write_text("\n".join(lines))
    assert load_dataset(f"recordio:{path}").classes == ("a", "b", "c")
    for start in ("train/", "/data/set/train/", "./"):
        within = [f"{start}{name}".join(line.split(name)) for line in lines for name in "abc" if name in line]
        path.with_suffix(".lst").write_text("\n".join(within))
        assert load_dataset(f"recordio:{path}").classes == ("a", "b", "c")
    path.with_suffix(".lst").write_text("\n".join(line.replace("/", "\\") for line in lines))
    assert load_dataset(f"recordio:{path}").classes == ("a", "b", "c")
    path.with_suffix(".lst").write_text("\n".join(line.replace("b/", "a/") for line in lines))
    assert load_dataset(f"recordio:{path}").classes == ("0", "1", "2")
    path.with_suffix(".lst").write_text("\n".join([*lines[:4], "4\t0\tx.png"]))
    with pytest.raises(DataError, match=r"x\.lst: line 5: has the label 0 for image 4, and its record has 2; remove"):
        load_dataset(f"recordio:{path}")
    path.with_suffix(".lst").write_text("some text")
    with pytest.raises(DataError, match=r"x\.lst: line 1: expected a number, labels and a file, by tabs"):
        load_dataset(f"recordio:{path}")


def test_lists_that_number_the_classes_in_two_ways_are_refused(tmp_path) -> None:
    for half, names in (("train", "abc"), ("val", "acb")):
        path = write(tmp_path / f"x_{half}.rec", packed())
        lines = [f"{number}\t{label:f}\t{names[label]}/{number}.png" for number, label in enumerate(LABELS)]
        path.with_suffix(".lst").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"x_val\.lst: has the label 2 for b, and .*x_train\.lst has 1; number the"):
        load_dataset(f"recordio:{tmp_path / 'x_train.rec'}")


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


SOUND = b"".join(
    PART.pack(MAGIC, len(record)) + record + bytes(-len(record) % 4)
    for record in (HEADER.pack(0, label, label, 0) + PNGS[label] for label in range(4))
)
SECOND = SOUND.index(MAGIC, 4)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not readable as a RecordIO file: it is empty"),
        (
            SOUND[:-4],
            f"the record at byte {SOUND.rindex(MAGIC)} is cut off: the file ends at byte {len(SOUND) - 4}; copy",
        ),
        (SOUND[: SECOND + 6], f"the record at byte {SECOND} is cut off: the file ends at byte {SECOND + 6}"),
        (SOUND[: SECOND + 2], f"the record at byte {SECOND} is cut off: the file ends at byte {SECOND + 2}"),
        (b"PK\3\4" + SOUND, "at byte 0 stands 50 4b 03 04; a record begins with 0a 23 d7 ce; copy the file again"),
        (changed(SOUND, SECOND, b"\0"), f"at byte {SECOND} stands 00 23 d7 ce"),
        (changed(SOUND, 4, b"\xff\xff\xff\x1f"), "the record at byte 0 is cut off"),
        (changed(SOUND, 7, b"\x40"), "at byte 0 stands a part of kind 2, which does not belong there"),
        (changed(SOUND, 7, b"\x20"), f"at byte {SECOND} stands a part of kind 0, which does not belong there"),
        (changed(SOUND, 8, b"\xff\xff\xff\xff"), "its header and labels alone need 17179869204"),
        (PART.pack(MAGIC, 4) + b"text", "the record at byte 0 has 4 bytes; its header and labels alone need 24"),
        (changed(SOUND, 12, struct.pack("<f", 0.5)), "the record at byte 0 has the label 0.5; expected a class"),
        (changed(SOUND, 12, struct.pack("<f", np.nan)), "the record at byte 0 has the label nan"),
        (changed(SOUND, 12, struct.pack("<f", -1)), "the record at byte 0 has the label -1"),
        (changed(SOUND, 12, struct.pack("<f", 1e30)), "the record at byte 0 has the label 1e+30"),
        (changed(SOUND, SECOND + 8, b"\x05"), f"the record at byte {SECOND} has 5 labels, and those before it have 1"),
        (
            (PART.pack(MAGIC, 1 << 29) + PART.pack(MAGIC, 2 << 29) * 5000),
            "is too large: at most 134,217,728 bytes, 4,096 parts",
        ),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, data: bytes, message: str) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(data)
    with pytest.raises(DataError) as refused:
        load_dataset(f"recordio:{path}")
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_image_that_is_damaged_is_named_when_it_is_read(tmp_path) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(changed(SOUND, SECOND + 32, b"text"))
    split = whole(path)
    split.image(0, 3)
    with pytest.raises(
        DataError, match=rf"x\.rec: the record at byte {SECOND}: not readable as an image: it is none of BMP"
    ):
        split.image(1, 3)
    path.write_bytes(SOUND[: SECOND + 40])
    with pytest.raises(DataError, match=rf"x\.rec: the record at byte {SECOND} is cut off"):
        split.image(1, 3)


@pytest.mark.parametrize(
    "index, message",
    [
        ("0\t0\n1\t4\n", r"x\.idx: line 2: no record begins at '4', or a line before names it; remove the index"),
        ("0\t0\n1\t0\n", r"x\.idx: line 2: no record begins at '0'"),
        ("0\t0\n", rf"x\.idx: does not name the record at byte {SECOND}"),
        ("0 0\n", r"x\.idx: line 1: no record begins at ''"),
        ("0\t" + "9" * 30, r"x\.idx: line 1: no record begins at '9"),
        ("0" * 70_000, r"x\.idx: line 1: is longer than 65,536 bytes, so this is not an index of records"),
        (b"\xff\xfe", r"x\.idx: not UTF-8 text"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, index: str | bytes, message: str) -> None:
    (tmp_path / "x.rec").write_bytes(SOUND)
    (tmp_path / "x.idx").write_bytes(index if isinstance(index, bytes) else index.encode())
    with pytest.raises(DataError, match=message):
        load_dataset(f"recordio:{tmp_path / 'x.rec'}")


def test_other_wrong_use_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.rec: No such file"):
        load_dataset(f"recordio:{tmp_path / 'none.rec'}")
    with pytest.raises(
        DataError, match=r"x\.lst: is a list of records; name the file with the records themselves, x\.rec"
    ):
        load_dataset(f"recordio:{tmp_path / 'x.lst'}")
    write(tmp_path / "x.rec", packed())
    (tmp_path / "synset.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"x\.rec: has labels up to 2, and the class list beside it only 2 names"):
        load_dataset(f"recordio:{tmp_path / 'x.rec'}")
    (tmp_path / "synset.txt").write_text("cat\ndog\n\ncat\n")
    with pytest.raises(DataError, match=r"synset\.txt: line 4: names the class cat again"):
        load_dataset(f"recordio:{tmp_path / 'x.rec'}")


def test_memory_is_bounded(tmp_path) -> None:
    """A file of 40 MB of large records is read in blocks of 1 MiB."""
    record = HEADER.pack(0, 1, 0, 0) + bytes(2**21)
    (tmp_path / "x.rec").write_bytes((PART.pack(MAGIC, len(record)) + record) * 20)
    tracemalloc.start()
    split = whole(tmp_path / "x.rec")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(split) == 20
    assert peak < 2 * BLOCK


def test_a_network_trains_on_records(tmp_path, command) -> None:
    for half in ("train", "val"):
        write(tmp_path / f"x_{half}.rec", packed())
    train, val = (f"recordio:{tmp_path}/x_{half}.rec" for half in ("train", "val"))
    run = tmp_path / "run"
    recipe = msgspec.structs.replace(get_recipe("cifar"), epochs=1, batch_size=6)
    spec = msgspec.structs.replace(TINY, in_channels=3, num_classes=3)
    resnet_xf.train(spec, train, recipe, backend="torch", out=run)
    code, out, err = command("evaluate", run)
    assert code == 0, err
    assert "12 test images" in out
    for suffix in ("rec", "idx"):
        (tmp_path / f"x_train.{suffix}").unlink()
    assert resnet_xf.evaluate(run, val).images == 12
    with pytest.raises(DataError, match="has no training images"):
        resnet_xf.train(spec, val, recipe)
