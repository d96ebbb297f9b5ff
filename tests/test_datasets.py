import gzip
import hashlib
import io
import os
import pickle
import re
import socket
import sys
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from PIL import Image

from helpers.images import tensor
from resnet_xf.data import DATASETS, Batches, Dataset, FileSplit, Transform, load_dataset, published
from resnet_xf.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
LABELS = (np.arange(30) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_files() -> dict[str, bytes]:
    arrays = (PIXELS[:20], LABELS[:20], PIXELS[20:], LABELS[20:])
    return {name: idx(array) for name, array in zip(IDX, arrays, strict=True)}


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([*(np.asarray(label, np.uint8)[:, None] for label in labels), planes], 1).tobytes()


def cifar10_files() -> dict[str, bytes]:
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return {name: records(COLOURS[5 * n : 5 * n + 5], LABELS[5 * n : 5 * n + 5]) for n, name in enumerate(names)} | {
        "readme.html": b"<html>"
    }


def cifar100_files() -> dict[str, bytes]:
    fine = LABELS + 90
    return {
        "fine_label_names.txt": "".join(f"kind_{number}\n" for number in range(100)).encode(),
        "train.bin": records(COLOURS[:20], LABELS[:20] // 2, fine[:20]),
        "test.bin": records(COLOURS[20:], LABELS[20:] // 2, fine[20:]),
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(data) for name, data in files.items()}


def tarred(files: dict[str, bytes], inside: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def assert_is(dataset: Dataset, images: np.ndarray, labels: np.ndarray, parts: int = 20) -> None:
    shaped = images.reshape(*images.shape[:3], -1)
    for split, part in (dataset.train, slice(parts)), (dataset.test, slice(parts, None)):
        assert np.array_equal(split.images, shaped[part])
        assert np.array_equal(split.labels, labels[part])
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
    assert dataset.channels == shaped.shape[3]


@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("pack", [packed, dict])
def test_mnist_is_read_where_it_lies(tmp_path, folder: str, pack) -> None:
    write(tmp_path / folder, pack(idx_files()))
    dataset = load_dataset("mnist", tmp_path)
    assert_is(dataset, PIXELS, LABELS)
    assert dataset.classes == tuple("0123456789")


def test_mnist_is_what_torchvision_reads(tmp_path) -> None:
    from torchvision.datasets import MNIST

    write(tmp_path / "MNIST" / "raw", idx_files())
    ours = load_dataset("mnist", tmp_path)
    for split, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(tmp_path, train=train)
        assert np.array_equal(split.images[..., 0], theirs.data.numpy())
        assert np.array_equal(split.labels, theirs.targets.numpy())


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_whole() -> None:
    dataset = load_dataset("fashion-mnist", DEBIAN)
    assert dataset.train.images.shape == (60_000, 28, 28, 1)
    assert dataset.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.classes[dataset.train.labels[0]] == "ankle boot"
    assert abs(dataset.train.images.mean() / 255 - 0.2860) < 1e-4  # as published
    assert abs(dataset.train.images.std() / 255 - 0.3530) < 1e-4


@pytest.mark.parametrize("name, files", [("cifar10", cifar10_files), ("cifar100", cifar100_files)])
@pytest.mark.parametrize("layout", ["archive", "folder", "flat"])
def test_cifar_is_read_where_it_lies(tmp_path, name: str, files, layout: str) -> None:
    source = published.PUBLISHED[name].source
    inside, (archive,) = source.folders[-1], source.md5s
    if layout == "archive":
        write(tmp_path, {archive: tarred(files(), inside)})
    else:
        write(tmp_path / inside if layout == "folder" else tmp_path, files())
    dataset = load_dataset(name, tmp_path)
    if name == "cifar10":
        assert_is(dataset, COLOURS, LABELS, 25)
        assert dataset.classes[3] == "cat"
    else:
        assert_is(dataset, COLOURS, LABELS + 90)
        assert dataset.classes[99] == "kind_99"


@pytest.mark.parametrize("there", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_pickled_cifar_is_not_read(tmp_path, there: str) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(DataError) as refused:
        load_dataset("cifar10", tmp_path)
    assert there in str(refused.value)
    assert "is Python's pickled version, which is not read" in str(refused.value)
    assert ": holds no cifar-10-binary.tar.gz, which cifar10 needs; " in str(refused.value)
    assert "get cifar-10-binary.tar.gz from https://" in str(refused.value)


def test_digits_are_parted_evenly_and_always_alike() -> None:
    first, second = load_dataset("digits"), load_dataset("digits")
    assert len(first.train) + len(first.test) == 1797
    assert np.array_equal(first.test.images, second.test.images)
    share = np.bincount(first.test.labels) / (np.bincount(first.test.labels) + np.bincount(first.train.labels))
    assert np.all(np.abs(share - 0.2) < 0.003)
    assert first.train.images.shape[1:] == (8, 8, 1)
    assert first.train.images.max() == 255
    assert first.test.labels[:12].tolist() == [2, 3, 7, 9, 0, 1, 0, 0, 7, 2, 1, 3]


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(DataError) as refused:
        load_dataset("imagenet")
    assert all(name in str(refused.value) for name in DATASETS)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "name, change, message",
    [
        (IDX[0], lambda data: data[:-1], "has 15695 bytes; expected 15696 for 20×28×28"),
        (IDX[0], lambda data: data + b"0", "has 15697 bytes; expected 15696"),
        (IDX[0], lambda data: b"", "begins with nothing; expected 00 00 08 03"),
        (IDX[0], lambda data: data[:9], "begins with 00 00 08 03; expected 00 00 08 03 and 12 more bytes"),
        (IDX[1], lambda data: idx_files()[IDX[0]], "begins with 00 00 08 03; expected 00 00 08 01"),
        (IDX[3], lambda data: idx(LABELS[:9]), "holds 9 labels for the 10 images of"),
        (IDX[3], lambda data: idx(LABELS[20:] + 5), "label 10 of image 5 is not one of 0…9"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, name: str, change, message: str) -> None:
    write(tmp_path, files := idx_files())
    (tmp_path / name).write_bytes(change(files[name]))
    with pytest.raises(DataError) as refused:
        load_dataset("fashion-mnist", tmp_path)
    assert one_line(refused).startswith(str(tmp_path / name))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: data[:40] + b"0" * 99]
)
def test_damaged_gz_files_are_named(tmp_path, damage) -> None:
    write(tmp_path, files := packed(idx_files()))
    (tmp_path / f"{IDX[0]}.gz").write_bytes(damage(files[f"{IDX[0]}.gz"]))
    with pytest.raises(DataError, match=rf"{IDX[0]}\.gz: not readable as a file of mnist: .+; get it again"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("train.bin", b"0" * 100, "train.bin: has 100 bytes; expected a multiple of 3074"),
        ("test.bin", b"", "test.bin: has 0 bytes; expected a multiple of 3074"),
        ("test.bin", records(COLOURS[:2], [0, 0], [7, 100]), "test.bin: label 100 of image 1 is not one of 0…99"),
        ("fine_label_names.txt", b"apple\n", "fine_label_names.txt: names 1 classes; expected 100"),
        ("fine_label_names.txt", b"\xff\n", "fine_label_names.txt: names 1 classes; expected 100"),
    ],
)
@pytest.mark.parametrize("in_archive", [True, False])
def test_damaged_cifar_files_are_named(tmp_path, name: str, data: bytes, message: str, in_archive: bool) -> None:
    files = {**cifar100_files(), name: data}
    if in_archive:
        files = {"cifar-100-binary.tar.gz": tarred(files, "cifar-100-binary")}
    write(tmp_path, files)
    with pytest.raises(DataError) as refused:
        load_dataset("cifar100", tmp_path)
    assert message in one_line(refused)
    assert ("cifar-100-binary.tar.gz: cifar-100-binary/" in str(refused.value)) == in_archive


def test_archives_that_lack_a_file_or_are_cut_are_named(tmp_path) -> None:
    files = cifar10_files()
    del files["test_batch.bin"]
    whole = tarred(files, "cifar-10-batches-bin")
    for data, message in ((whole, "holds no cifar-10-batches-bin/test_batch.bin"), (whole[:-5000], "not readable")):
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(data)
        with pytest.raises(DataError, match=message) as refused:
            load_dataset("cifar10", tmp_path)
        assert one_line(refused).startswith(str(tmp_path / "cifar-10-binary.tar.gz"))


def test_links_in_an_archive_are_not_followed(tmp_path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in cifar10_files():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match="holds no cifar-10-batches-bin/data_batch_1.bin"):
        load_dataset("cifar10", tmp_path)


def test_missing_files_are_named_with_where_to_get_them(tmp_path) -> None:
    write(tmp_path, idx_files())
    (tmp_path / IDX[3]).unlink()
    with pytest.raises(DataError) as refused:
        load_dataset("fashion-mnist", tmp_path)
    message = one_line(refused)
    assert message.startswith(f"{tmp_path}: holds no {IDX[3]} or {IDX[3]}.gz, which fashion-mnist needs; get ")
    assert "apt-get install dataset-fashion-mnist" in message
    with pytest.raises(DataError, match="none: no such folder"):
        load_dataset("mnist", tmp_path / "none")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        self.server.asked.append(self.path)


@contextmanager
def served(folder: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", server.asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache" / "resnet_xf" / "mnist"


def publish(monkeypatch, files: dict[str, bytes], *mirrors: str) -> None:
    known = published.PUBLISHED["mnist"]
    md5s = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    source = replace(known.source, md5s=md5s, mirrors=mirrors)
    monkeypatch.setitem(published.PUBLISHED, "mnist", replace(known, source=source))


def nobody() -> str:
    """An address on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.mark.parametrize("progress", [True, False])
def test_files_are_fetched_once_and_without_a_word(tmp_path, monkeypatch, cache, capfd, progress: bool) -> None:
    write(tmp_path / "served", files := packed(idx_files()))
    with served(tmp_path / "served") as (mirror, asked):
        publish(monkeypatch, files, mirror)
        assert_is(load_dataset("mnist", progress=progress), PIXELS, LABELS)
        assert sorted(asked) == sorted(f"/{name}" for name in files)
    assert {path.name for path in cache.iterdir()} == set(files)
    assert_is(load_dataset("mnist", progress=progress), PIXELS, LABELS)  # nobody serves them any more
    assert capfd.readouterr() == ("", "")  # a progress bar is for terminals


def test_progress_is_shown_on_a_terminal(tmp_path, monkeypatch, cache, capfd) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    write(tmp_path / "served", files := packed(idx_files()))
    with served(tmp_path / "served") as (mirror, _):
        publish(monkeypatch, files, mirror)
        load_dataset("mnist")
    out, err = capfd.readouterr()
    assert out == ""
    assert all(name in err for name in files)


def test_mirrors_are_tried_in_turn(tmp_path, monkeypatch, cache) -> None:
    files = packed(idx_files())
    write(tmp_path / "served", files)
    write(tmp_path / "stale", dict.fromkeys(files, b"something else"))
    write(tmp_path / "empty", {})
    with (
        served(tmp_path / "empty") as (empty, _),
        served(tmp_path / "stale") as (stale, _),
        served(tmp_path / "served") as (good, _),
    ):
        publish(monkeypatch, files, nobody(), empty, stale, good)
        assert_is(load_dataset("mnist", progress=False), PIXELS, LABELS)


def test_what_cannot_be_fetched_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, cache) -> None:
    files = packed(idx_files())
    write(tmp_path / "stale", dict.fromkeys(files, b"something else"))
    write(tmp_path / "empty", {})
    with served(tmp_path / "empty") as (empty, _), served(tmp_path / "stale") as (stale, _):
        publish(monkeypatch, files, away := nobody(), empty, stale)
        with pytest.raises(DataError) as refused:
            load_dataset("mnist", progress=False)
    message = one_line(refused)
    assert message.startswith(
        f"{IDX[0]}.gz: cannot be fetched from {away} (ConnectionError), {empty} (it answers 404), "
    )
    assert f"{stale} (what it sends is another file: the checksum differs)" in message
    assert message.endswith("and name their folder: --data-dir FOLDER")
    assert all(name in message for name in files)
    assert list(cache.iterdir()) == []


def test_a_damaged_cache_is_mended(tmp_path, monkeypatch, cache) -> None:
    write(tmp_path / "served", files := packed(idx_files()))
    write(cache, dict.fromkeys(files, b"cut"))
    with served(tmp_path / "served") as (mirror, _):
        publish(monkeypatch, files, mirror)
        assert_is(load_dataset("mnist", progress=False), PIXELS, LABELS)


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch, cache) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(DataError, match=r"mnist: cannot be made \(Not a directory\); get .*--data-dir FOLDER"):
        load_dataset("mnist", progress=False)


def pictures(folder: Path, count: int, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for shade in range(count):
        Image.new("RGB", (9 + shade, 12), (shade * 20, 0, 0)).save(folder / f"{shade}{suffix}")


def test_class_folders_with_both_halves(tmp_path) -> None:
    for half, count in (("train", 3), ("val", 2)):
        pictures(tmp_path / half / "dog", count)
        pictures(tmp_path / half / "cat" / "deep" / "down", count, ".JPG")
        pictures(tmp_path / half / ".hidden", 1)
    (tmp_path / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.channels == 3
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert isinstance(dataset.train, FileSplit)
    assert all(Path(path).is_file() for path in dataset.train.paths)
    (batch,) = Batches(dataset.test, Transform((10, 10), 3), 4)
    assert batch.images.shape == (4, 3, 10, 10)


def test_names_of_folders_are_utf_8_and_those_of_files_may_be_anything(tmp_path) -> None:
    pictures(tmp_path / "dog", 3)
    pictures(tmp_path / "cat", 3, f"{os.fsdecode(bytes([0xE9]))}.png")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert len(dataset.train.digest()) == 32
    (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"caf" + bytes([0xE9])))
    with pytest.raises(DataError, match=r"'caf\\udce9' is not UTF-8; rename it"):
        load_dataset(f"folder:{tmp_path}")


def test_class_folders_alone_are_parted_evenly_and_always_alike(tmp_path) -> None:
    for name, count in (("a", 10), ("b", 5), ("c", 2)):
        pictures(tmp_path / name, count)
    dataset, again = (load_dataset(f"folder:{tmp_path}") for _ in range(2))
    assert np.bincount(dataset.test.labels).tolist() == [2, 1, 1]
    assert np.bincount(dataset.train.labels).tolist() == [8, 4, 1]
    assert dataset.test.paths == again.test.paths
    assert len({*dataset.train.paths, *dataset.test.paths}) == 17
    for path, label in zip(dataset.train.paths, dataset.train.labels, strict=True):
        assert Path(path).parent.name == "abc"[label]


@pytest.mark.parametrize(
    "make, message",
    [
        ((), "root: no such folder"),
        (
            ("Train/a*", "Test/a*", "Meta*"),
            "root: holds Test and Train, which are no classes; call them train and test",
        ),
        (("training/a*",), "root: holds training, which are no classes"),
        (("",), "root: holds no folder; expected one of images for each class"),
        (("a",), "a: holds no image; expected files that end in"),
        (("train/a*",), "root: holds train, but neither test nor val beside it"),
        (("train/a*", "test"), "test: holds no folder; expected one"),
        (("train/a*", "test/a*", "test/b*"), "root: class b is in only one of train and test"),
        (("train/a*", "train/b", "test/a*"), "b: holds no image"),
        (("a*", "b1"), "class b has 1 image, and a training and a test half need two"),
        (("val/a*",), r"root: holds val, but no train; add it, or test on one folder of classes: folder:.*root/val$"),
        (("test/a*", "val/a*"), r"root: holds test and val, but no train; .* folder:.*root/test$"),
    ],
)
def test_bad_class_folders_are_named(tmp_path, make, message: str) -> None:
    for name in make:
        if name[-1:] in ("*", "1"):
            pictures(tmp_path / "root" / name[:-1], 1 if name.endswith("1") else 3)
        else:
            (tmp_path / "root" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=message) as refused:
        load_dataset(f"folder:{tmp_path / 'root'}")
    assert one_line(refused).startswith(str(tmp_path / "root"))


def test_an_image_that_is_none_is_named_when_it_is_read(tmp_path) -> None:
    pictures(tmp_path / "a", 2)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    dataset = load_dataset(f"folder:{tmp_path}")
    held_by = dataset.train if dataset.train.paths[0].endswith("1.png") else dataset.test
    with pytest.raises(DataError, match=r"1\.png: not readable as an image: .*; replace it, or remove it"):
        tensor(Transform((8, 8), 3), held_by, np.arange(1))


def test_pickled_cifar_is_known_whichever_folder_is_named(tmp_path) -> None:
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"", "batches.meta": b""})
    write(tmp_path / "cifar-100-python", {"train": b"", "test": b"", "meta": b""})
    for name, data_dir in (
        ("cifar10", tmp_path / "cifar-10-batches-py"),
        ("cifar100", tmp_path / "cifar-100-python"),
        (f"folder:{tmp_path}", None),
        (f"folder:{tmp_path / 'cifar-10-batches-py'}", None),
        (f"folder:{tmp_path / 'cifar-100-python'}", None),
    ):
        with pytest.raises(DataError, match="is Python's pickled version, which is not read") as refused:
            load_dataset(name, data_dir)
        assert "docs/training.md has the lines that write the binary version" in one_line(refused)
        assert "-binary.tar.gz from https://www.cs" in str(refused.value)


def test_a_tilde_is_the_home_folder_or_a_user_who_may_be_unknown(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path / "mine" / "a", 2)
    assert load_dataset("folder:~/mine").classes == ("a",)
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"", "batches.meta": b""})
    with pytest.raises(DataError, match="cifar-10-batches-py is Python's pickled version, which is not read"):
        load_dataset("folder:~")
    with pytest.raises(DataError, match="^~no-such-user/x: no such folder"):
        load_dataset("folder:~no-such-user/x")
    with pytest.raises(DataError, match=r"~no-such-user/x\.rec: No such file"):
        load_dataset("recordio:~no-such-user/x.rec")


@pytest.mark.parametrize("name, labels", [("cifar10", LABELS), ("cifar100", LABELS + 90)])
def test_the_pages_lines_write_the_binary_version(tmp_path, monkeypatch, name: str, labels) -> None:
    rows = COLOURS.transpose(0, 3, 1, 2).reshape(30, -1)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if name == "cifar10" else ["train", "test"]
    parts = np.array_split(np.arange(30), 6) if name == "cifar10" else (np.arange(20), np.arange(20, 30))
    for file, part in zip(names, parts, strict=True):
        keys = (b"labels",) if name == "cifar10" else (b"coarse_labels", b"fine_labels")
        batch = {key: labels[part].tolist() for key in keys} | {b"data": rows[part]}
        (tmp_path / file).write_bytes(pickle.dumps(batch))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"kind_%d" % n for n in range(100)]}))
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(import pickle.*?)^```$", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert_is(load_dataset(name, tmp_path), COLOURS, labels, len(parts[-1]) * 5 if name == "cifar10" else 20)


SYNSETS = ("n01440764", "n01443537", "n01484850")
FLAT = {f"ILSVRC2012_val_{number:08}.JPEG": number % 3 for number in range(1, 7)}
FIRST, SECOND, *_ = FLAT


def flat(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, label in FLAT.items():
        Image.new("RGB", (9, 8), (label, 0, 0)).save(folder / name)
    return folder


IMAGE_LISTS = {
    "val_map.txt": "".join(f"{name}\t{SYNSETS[label]}\n" for name, label in FLAT.items()),
    "val/val_annotations.txt": "".join(f"{name}\t{SYNSETS[label]}\t0\t32\t44\t62\n" for name, label in FLAT.items()),
    "val.txt": "".join(f"{name} {label}\n" for name, label in sorted(FLAT.items(), reverse=True)),
    "val.lst": "".join(f"{number}\t{label:f}\tval/{name}\n" for number, (name, label) in enumerate(FLAT.items())),
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "".join(f"{name[:-5]},{SYNSETS[label]} 85 1 499 272 {SYNSETS[label]} 1 2 3 4\n" for name, label in FLAT.items()),
    "imagenet_2012_validation_synset_labels.txt": "".join(f"{SYNSETS[label]}\n" for label in FLAT.values()),
}


@pytest.mark.parametrize("name", IMAGE_LISTS)
@pytest.mark.parametrize("listed", [True, False])
def test_a_flat_folder_with_a_list_of_its_images(tmp_path, name: str, listed: bool) -> None:
    """As ImageNet's and Tiny ImageNet's val: alone it is for a test; beside train it is the test half."""
    flat(tmp_path / "val")
    pictures(tmp_path / "val" / ".thumbnails", 1)  # a hidden folder
    (tmp_path / name).write_text(IMAGE_LISTS[name])
    names = SYNSETS
    if listed:
        names = ("n01484850 great white shark", "n01440764 tench, Tinca tinca", "n01443537 goldfish")
        (tmp_path / "synset.txt").write_text("\n".join(names))
    by_number = name in ("val.txt", "val.lst")
    labels = [label if by_number else (label + listed) % 3 for label in FLAT.values()]
    dataset = load_dataset(f"folder:{tmp_path / 'val'}")
    assert dataset.classes == (names if listed or not by_number else ("0", "1", "2"))
    assert (dataset.channels, len(dataset.train)) == (3, 0)
    assert dataset.test.labels.tolist() == labels
    assert [Path(path).name for path in dataset.test.paths] == [*FLAT]
    for synset in SYNSETS:
        pictures(tmp_path / "train" / synset / "images", 2)
    (tmp_path / "test" / "images").mkdir(parents=True)  # Tiny ImageNet's, of no known classes
    dataset = load_dataset(f"folder:{tmp_path}")
    assert (dataset.channels, dataset.classes) == (3, names)
    assert dataset.train.labels.tolist() == ([1, 1, 2, 2, 0, 0] if listed else [0, 0, 1, 1, 2, 2])
    assert dataset.test.labels.tolist() == labels


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.JPEG 0\n", r"val_map\.txt: line 1: a\.JPEG 0 names no image of"),
        (f"{FIRST} 0\n" * 2, r"line 2: .* names no image of .*, or one of a line before"),
        (f"{FIRST} 0\n", rf"val_map\.txt: has no line for .*{SECOND}; add one, or move the image away"),
        (
            IMAGE_LISTS["val_map.txt"].replace(SYNSETS[2], "cat"),
            r"names the class 'cat', which is none of the 3 \(n01440764",
        ),
        (
            IMAGE_LISTS["val_map.txt"].replace(f"\t{SYNSETS[2]}", ",,"),
            r"names the class '', which is none of the 3 \(n01440764",
        ),
        (f"{SYNSETS[0]}\n" * 7, r"val_map\.txt: line 7: n01440764 names no image of"),
        ("0\n" * 6, r"val_map\.txt: has numbers alone, whose order is not known; expected an image and its class"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text: str, message: str) -> None:
    flat(tmp_path / "val")
    (tmp_path / "val_map.txt").write_text(text)
    (tmp_path / "synset.txt").write_text("\n".join(SYNSETS))
    with pytest.raises(DataError, match=message) as refused:
        load_dataset(f"folder:{tmp_path / 'val'}")
    assert one_line(refused)


def test_a_flat_folder_without_a_list_says_which_it_may_have(tmp_path) -> None:
    flat(tmp_path / "val")
    with pytest.raises(
        DataError, match=r"or a list of the classes of its images, as val_annotations\.txt, val_map\.txt"
    ):
        load_dataset(f"folder:{tmp_path / 'val'}")


def test_a_class_list_sets_the_order_of_folders(tmp_path) -> None:
    for name in ("cat", "dog"):
        pictures(tmp_path / name, 5)
    (tmp_path / "classes.txt").write_text("dog\nowl\ncat\n")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("dog", "owl", "cat")
    assert np.bincount(dataset.train.labels).tolist() == [4, 0, 4]
    pictures(tmp_path / "fox", 5)
    with pytest.raises(DataError, match=r"fox: is no class of the class list"):
        load_dataset(f"folder:{tmp_path}")


def test_class_folders_may_be_called_by_numbers(tmp_path) -> None:
    """A list names such a folder; a number as im2rec writes it is a place among the folders."""
    for number in range(12):
        pictures(tmp_path / "train" / str(number), 1)
    pictures(tmp_path / "val", 3)
    (tmp_path / "val.txt").write_text("0.png 2\n1.png 11\n2.png 0\n")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == tuple(sorted(map(str, range(12))))
    assert [dataset.classes[label] for label in dataset.test.labels] == ["2", "11", "0"]
    (tmp_path / "val.txt").rename(tmp_path / "val.lst")
    (tmp_path / "val.lst").write_text("0\t2.000000\t0.png\n1\t11.000000\t1.png\n2\t0.000000\t2.png\n")
    assert load_dataset(f"folder:{tmp_path}").test.labels.tolist() == [2, 11, 0]


def test_a_class_in_a_list_may_have_several_words(tmp_path) -> None:
    for name in ("great white shark", "tiger shark"):
        pictures(tmp_path / "train" / name, 1)
    pictures(tmp_path / "val", 2)
    (tmp_path / "val.txt").write_text("0.png tiger shark\n1.png great white shark\n")
    assert load_dataset(f"folder:{tmp_path}").test.labels.tolist() == [1, 0]


def test_folders_of_classes_come_before_a_list(tmp_path) -> None:
    for half in ("train", "test", "val"):
        for name in ("a", "b"):
            pictures(tmp_path / half / name, 2)
    for name in ("test.csv", "val.txt"):
        (tmp_path / name).write_text("notes")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert [Path(path).parent.parent.name for path in dataset.test.paths] == ["test"] * 4
    alone = load_dataset(f"folder:{tmp_path / 'val'}")
    assert (len(alone.train), len(alone.test)) == (0, 4), "a test half by its name, as a .rec file is"


def test_images_behind_links_are_read(tmp_path) -> None:
    pictures(tmp_path / "elsewhere", 2)
    for half in ("train", "test"):
        pictures(tmp_path / "root" / half / "a", 1)
        (tmp_path / "root" / half / "a" / "more").symlink_to(tmp_path / "elsewhere")
    dataset = load_dataset(f"folder:{tmp_path / 'root'}")
    assert (len(dataset.train), len(dataset.test)) == (3, 3)
