"""What a file, or whoever made it, must not do: crash the commands, hold them up, or write on the terminal."""

import errno
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from resnet_xf import ResNetSpec, Stage
from resnet_xf.architecture.spec import SPEC_KEY
from resnet_xf.architecture.weights import RUN_KEY, draw_weights, save_weights, write_arrays
from resnet_xf.data import load_dataset
from resnet_xf.data.images import read_image
from resnet_xf.errors import DataError, WeightsError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.gluon_params import read_params
from resnet_xf.formats.inspect import inspect

SPEC = 'name = "x"\nstages = [{ depth = 1, channels = 4 }]\n'
RECIPE = 'name = "x"\nepochs = 1\nbatch_size = 9\noptimizer = { learning_rate = 0.1 }\n'

Write = Callable[[Path], object]


def text(content: str | bytes) -> Write:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda path: path.write_bytes(data)


def nested(path: Path) -> None:
    path.symlink_to(path.name)


SPECS: dict[str, tuple[str, Write, str]] = {
    "an integer of 5,000 digits": ("toml", text(SPEC + f"num_classes = {'9' * 5000}"), "integer string conversion"),
    "a name of two lines": ("toml", text('"a\\nresnet-xf: all is well" = 1'), r"`a\\nresnet-xf: all is well`"),
    "a name that ends in a line": ("toml", text(SPEC.replace('"x"', '"x\\n"')), r"\$\.name"),
    "an escape sequence": ("json", text('{"\\u001b[2J\\u202e": 1}'), r"\\u001b\[2J\\u202e"),
    "a name of 100 kB": ("json", text('{"' + "a" * 10**5 + '": 1}'), "…"),
    "a million blocks": (
        "toml",
        text('name = "x"\nstages = [' + "{ depth = 10000, channels = 8 }," * 100 + "]"),
        "1,000,000 blocks together; at most 2,000",
    ),
    "tables within tables": ("toml", text("[" + ".".join("a" * 100_000) + "]"), "is larger than 65,536 bytes"),
    "keys within keys": ("toml", text(".".join("a" * 30_000) + " = 1"), "more than 4,000 dots"),
    "lists within lists": ("toml", text("a = " + "[" * 30_000), "recursion"),
    "objects within objects": ("json", text('{"name":' + "[" * 100_000), "expected `str`"),
    "20 MB": ("json", text(" " * 20_000_000), "is larger than 16,777,216 bytes"),
    "not a number": ("toml", text(SPEC + "norm_eps = nan"), r"\$\.norm_eps"),
    "no file": ("toml", lambda path: None, "No such file"),
    "a folder": ("toml", Path.mkdir, "Is a directory"),
    "a FIFO": ("toml", os.mkfifo, "is not a regular file"),
    "a link to itself": ("toml", nested, "symbolic links"),
    "an endless device": ("toml", lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "nothing": ("json", text(""), "it is empty"),
    "UTF-16": ("toml", text(SPEC.encode("utf-16")), "not UTF-8 text"),
    "a web page": ("toml", text("<!DOCTYPE html>\n<html>"), "it is a web page"),
    "a pointer": ("json", text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "it is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_hostile_spec_is_one_line_at_once(name: str, command, tmp_path) -> None:
    suffix, write, says = SPECS[name]
    path = tmp_path / f"a.{suffix}"
    write(path)
    began = time.process_time()
    code, out, err = command("show", path)
    assert time.process_time() - began < 2
    assert (code, out) == (2, "")
    assert_one_line(err, rf"resnet-xf: .*{says}")


def assert_one_line(err: str, pattern: str) -> None:
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert len(err) < 2100
    with pytest.raises(WeightsError, match=pattern):  # for its report on what differs
        raise WeightsError(err[:-1])


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ('schedule = { kind = "step", milestones = [1e308] }', r"\$\.schedule\.milestones\[0\]"),
        ('schedule = { kind = "step", milestones = [inf] }', r"\$\.schedule\.milestones\[0\]"),
        ("schedule = { warmup_epochs = 1e300 }", r"\$\.schedule\.warmup_epochs"),
    ],
)
def test_a_recipe_of_huge_numbers_is_one_line(field: str, says: str, command, tmp_path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(RECIPE + field)
    code, out, err = command("train", "--recipe", path)
    assert (code, out) == (2, "")
    assert_one_line(err, says)


def test_a_run_of_more_steps_than_memory_holds_is_refused(command, tmp_path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(RECIPE.replace("epochs = 1", "epochs = 100000").replace("batch_size = 9", "batch_size = 1"))
    code, _, err = command("train", "--recipe", path, "--out", tmp_path / "run")
    assert code == 2
    assert_one_line(err, r"\$\.epochs: make 143,[0-9,]+ steps; at most 16,777,216")


def bomb(path: Path) -> None:
    spec = '{"name":"bomb","stages":[' + ",".join(['{"depth":10000,"channels":8}'] * 100) + "]}"
    write_arrays(path, draw_weights("cifar_resnet20_v1"), {SPEC_KEY: spec})


def lie(**changes: object) -> Write:
    def write(path: Path) -> None:
        header = b'{"a":{"dtype":"F32","shape":%s,"data_offsets":%s}}' % tuple(
            str(changes.get(key, default)).encode() for key, default in (("shape", [1]), ("offsets", [0, 4]))
        )
        path.write_bytes(struct.pack("<Q", changes.get("size", len(header))) + header + bytes(4))

    return write


def partly_compressed(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("x/version", b"3\n", zipfile.ZIP_DEFLATED)


def zipped(compress: int, damage: tuple[bytes, bytes]) -> Write:
    def write(path: Path) -> None:
        import zipfile

        with zipfile.ZipFile(path, "w", compress) as archive:
            archive.writestr("x/data.pkl", b"\x80\x02}q\x00.")
            archive.writestr("x/version", b"3\n")
        path.write_bytes(path.read_bytes().replace(*damage))

    return write


CHECKPOINTS: dict[str, tuple[str, Write, str]] = {
    "a spec of a million blocks": ("safetensors", bomb, "the spec in its metadata is malformed"),
    "a header of 10¹⁸ bytes": ("safetensors", lie(size=10**18), "not readable as safetensors: its header claims"),
    "a shape that is not there": ("safetensors", lie(shape=[2**40]), "not readable as safetensors"),
    "a shape that overflows": ("safetensors", lie(shape=[2**62, 4]), "not readable as safetensors"),
    "offsets beyond the end": ("safetensors", lie(offsets=[0, 2**40]), "not readable as safetensors"),
    "a million names": (
        "safetensors",
        lambda path: path.write_bytes(struct.pack("<Q", 2**24) + b"{" + b" " * 2**24),
        "not readable as safetensors: its header claims",
    ),
    "no central directory": ("pth", zipped(0, (b"PK\x01\x02", b"PK\x01\x03")), "not readable as PyTorch state_dict"),
    "a name that is not UTF-8": ("pth", zipped(0, (b"x/version", b"\xff/version")), "not "),
    "several disks": ("pth", zipped(0, (b"PK\x05\x06\0\0", b"PK\x05\x06\1\0")), "not readable"),
    "partly compressed": ("pth", partly_compressed, "is compressed"),
    "compressed": ("pth", zipped(8, (b"", b"")), "is compressed"),
    "a web page": ("params", text("<html><body>404</body></html>"), "it is a web page"),
    "a pointer": ("pth", text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "it is a Git LFS pointer"),
    "an empty file": ("safetensors", text(""), "it is empty"),
    "2⁶⁰ arrays": (
        "params",
        text(struct.pack("<QQQ", 0x112, 0, 2**60)),
        "claims to hold 1,152,921,504,606,846,976 arrays",
    ),
    "a shape beyond 64 bits": (
        "params",
        text(struct.pack("<QQQIiI3qiii", 0x112, 0, 1, 0xF993FAC9, 0, 3, 2**62, 2**62, 0, 1, 0, 0) + bytes(64)),
        "",
    ),
    "a FIFO": ("pth", os.mkfifo, "is not a regular file"),
    "a folder": ("params", Path.mkdir, "Is a directory, and not the folder of a training run; name a checkpoint file"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_hostile_checkpoint_is_one_line_at_once(name: str, command, tmp_path) -> None:
    suffix, write, says = CHECKPOINTS[name]
    path = tmp_path / f"x.{suffix}"
    write(path)
    began = time.process_time()
    code, out, err = command("inspect", path)
    assert time.process_time() - began < 2
    assert (code, out) == (2, "")
    assert_one_line(err, rf"x\.{suffix}: .*{says}")


def test_more_tensors_than_a_network_has_are_refused(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"{number}": np.zeros(0, np.float32) for number in range(60_001)}, path)
    with pytest.raises(WeightsError, match="holds 60,001 tensors; at most 60,000 are read"):
        read_checkpoint(path)


def test_left_over_tensors_are_counted(tmp_path) -> None:
    weights = draw_weights("cifar_resnet20") | {f"extra{number}": np.zeros(1, np.float32) for number in range(20_000)}
    save_file(weights, tmp_path / "x.safetensors")
    assert str(inspect(tmp_path / "x.safetensors").problem).endswith("; and 19992 more")


def test_a_view_that_claims_more_than_its_file_is_refused(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth: its tensors claim 4,000,000,000,000 bytes"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "Is a directory"),
        (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not readable as an image"),
        (lambda path: Image.new("1", (200_000, 600)).save(path), "has 200000×600 pixels; at most 80,000,000 are read"),
        (lambda path: Image.new("1", (10**6, 2)).save(path), "at most 100 times as many along one side"),
        (text(b"II*\0\x08\0\0\0\x01\0\0\1\3\0\1\0\0\0\1\0\0\0"), "not readable as an image"),
    ],
)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_hostile_image_is_refused_at_once(write: Write, says: str, tmp_path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: .*{says}"):
        read_image(tmp_path / "a.png")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path) -> None:
    import gzip

    piece = gzip.compress(bytes(2**24), 9)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(piece * 200)  # 3 MB that become 3 GB
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"ubyte\.gz: unpacks to more than 268,435,456 bytes"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{", b"", b'{"version": 2}', b'{"version": 1}', b'{"a":' * 10**5])
def test_a_damaged_manifest_is_one_line(content: bytes, command, tmp_path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    code, out, err = command("parity", "--against", tmp_path)
    assert (code, out) == (2, "")
    assert_one_line(err, r"manifest\.json: ")


def test_names_in_a_run_do_not_write_on_the_terminal(command, tmp_path) -> None:
    spec = ResNetSpec(name="x", stages=(Stage(depth=1, channels=4),))
    (tmp_path / "checkpoints").mkdir()
    texts = {SPEC_KEY: spec.to_json(), RUN_KEY: '{"\\u001b[2J\\n": 1}'}
    write_arrays(tmp_path / "checkpoints" / "step-00000001.safetensors", draw_weights(spec), texts)
    code, out, err = command("evaluate", tmp_path)
    assert (code, out) == (2, "")
    assert_one_line(err, r"\\u001b\[2J\\n")


def test_a_file_whose_name_is_not_utf_8_is_reported_on(command, tmp_path) -> None:
    spec = ResNetSpec(name="x", image_size=(8, 8), stages=(Stage(depth=1, channels=4),))
    file = tmp_path / os.fsdecode(b"caf" + bytes([0xE9]) + b".safetensors")
    save_weights(file, draw_weights(spec), spec)
    code, out, _ = command("parity", file, "--level", "quick", "--html", tmp_path / "r.html", "--json")
    assert (code, "udce9.safetensors" in json.loads(out)["weights"]) == (0, True)
    assert "udce9.safetensors" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert command("migrate", file, "--out", tmp_path / "out")[0] == 3
    assert json.loads((tmp_path / "out" / "migration.json").read_text())["source"] == str(file)


def test_hostile_names_are_shown_escaped_and_in_one_line(capsys) -> None:
    from resnet_xf.cli.printing import echo, print_table

    print_table(("image", "class>"), [("a\nb\x1b[2J", "[red]x"), ("c",)])
    echo("d\r\u202e")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["image           class", r"a\nb\u001b[2J  [red]x", "c", r"d\r\u202e"]


def test_a_bug_is_one_line_with_its_own_exit_code(command, monkeypatch) -> None:
    monkeypatch.setattr("resnet_xf.cli.networks.list_models", lambda pattern: 1 / 0)
    code, out, err = command("list")
    assert (code, out) == (70, "")
    assert_one_line(err, "this is a bug in resnet-xf, please report it with .*: ZeroDivisionError: division by zero")
    saved = Path(err.split(" with ")[1].split(",")[0])
    assert "Traceback (most recent call last)" in saved.read_text()
    saved.unlink()


def test_a_file_that_may_not_be_read_is_named(command, tmp_path, monkeypatch) -> None:
    def deny(*arguments: object) -> int:
        raise OSError(errno.EACCES, "Permission denied", str(arguments[0]))

    path = tmp_path / "a.toml"
    path.write_text(SPEC)
    monkeypatch.setattr(os, "open", deny)  # root may read everything
    code, out, err = command("show", path)
    assert (code, out) == (2, "")
    assert_one_line(err, r"a\.toml: Permission denied")


def params(count: int, begin: bytes, device: int, values: bytes = b"") -> bytes:
    """A ``.params`` file that claims to hold ``count`` arrays, and holds one called ``w``."""
    record = begin + struct.pack("<iii", device, 0, 0) + values
    return struct.pack("<QQQ", 0x112, 0, count) + record + struct.pack("<QQ", 1, 1) + b"w"


def test_arrays_of_every_kind_of_memory_and_without_axes_are_read(tmp_path) -> None:
    path, vector, value = tmp_path / "a.params", struct.pack("<I2I", 2, 1, 1), np.float32(3).tobytes()
    for device in (1, 2, 3, 5):
        path.write_bytes(params(1, vector, device, value))
        assert read_params(path)["w"].tolist() == [[3.0]]
    path.write_bytes(params(1, vector, 4, value))
    with pytest.raises(WeightsError, match="on a device of unknown kind 4"):
        read_params(path)
    path.write_bytes(params(1, struct.pack("<Iii", 0xF993FACA, 0, 0), 1, value))  # NumPy's, without axes
    assert read_params(path)["w"].shape == ()


def test_as_many_arrays_as_are_allowed_are_looked_for(tmp_path) -> None:
    path = tmp_path / "a.params"
    for count, says in (
        (60_000, r"array 2 of 60,000 claims"),
        (60_001, "claims to hold 60,001 arrays; at most 60,000"),
    ):
        path.write_bytes(params(count, struct.pack("<I2I", 2, 1, 1), 1, bytes(4))[:-17])
        with pytest.raises(WeightsError, match=says):
            read_params(path)
