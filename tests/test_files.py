"""How files are read and written: streams, links, what is no regular file, and parsers that raise anything."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnet_xf.errors import SpecError, WeightsError, printable
from resnet_xf.support.files import atomic, open_regular, read_bytes, reading, temporary_folder


def write(path: Path, text: str = "new") -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "a"
    write(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "old"
    write(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_umasks_mode_and_an_old_one_keeps_its_own(tmp_path) -> None:
    path = tmp_path / "a"
    old = os.umask(0o027)
    try:
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_file_is_replaced(tmp_path, there: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target, link, second = folder / "target", tmp_path / "link", tmp_path / "second"
    if there:
        target.write_text("old")
    link.symlink_to("folder/target")
    second.symlink_to(link)
    write(second)
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link", "second", "target"]


def test_a_device_stays_one() -> None:
    write(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_fifo_gets_the_bytes(tmp_path) -> None:
    path, read = tmp_path / "fifo", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path)
    reader.join(10)
    assert read == ["new"]
    assert path.is_fifo()


def test_an_open_stream_is_appended_to(tmp_path) -> None:
    with open(tmp_path / "log", "w") as log:
        log.write("first ")
        log.flush()
        write(Path(f"/proc/self/fd/{log.fileno()}"))
    assert (tmp_path / "log").read_text() == "first new"


def test_what_cannot_be_written_is_named(tmp_path) -> None:
    for path in (tmp_path, tmp_path / "none" / "a"):
        with pytest.raises(OSError, match="is a folder|No such file") as refused:
            write(path)
        assert refused.value.filename == str(path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="leads to itself"):
        write(tmp_path / "circle")
    write(tmp_path / ("a" * 250))


def test_only_regular_files_are_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for path in ("fifo", "link", "."):
        with pytest.raises(OSError, match="regular file|directory"):
            open_regular(tmp_path / path)
    with pytest.raises(OSError, match="regular file"):
        open_regular("/dev/zero")


def test_no_more_is_read_than_allowed(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    assert read_bytes(path, 10) == bytes(10)
    with pytest.raises(OSError, match="is larger than 9 bytes"):
        read_bytes(path, 9)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("x"), "a: not readable as a state_dict: 'x'; save it again"),
        (RecursionError("too deep\nby far"), "a: not readable as a state_dict: too deep; save it again"),
        (OSError(13, "Permission denied"), "a: Permission denied"),
        (MemoryError(), "a: needs more memory than there is"),
        (SpecError("$.name: bad"), "a: $.name: bad"),
        (SpecError("a: $.name: bad"), "a: $.name: bad"),
    ],
)
def test_every_exception_of_a_parser_becomes_the_readers_error(error: Exception, says: str) -> None:
    with pytest.raises(WeightsError) as refused, reading("a", WeightsError, "a state_dict", "; save it again"):
        raise error
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"<HTML><head>", "it is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is an XML text"),
    ],
)
def test_what_is_saved_under_a_wrong_name_is_told(tmp_path, content: bytes, says: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with (
        pytest.raises(WeightsError, match=rf"net\.params: not readable as parameters: {says}"),
        reading(path, WeightsError, "parameters"),
    ):
        raise ValueError("bad magic")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("ein × für\t1", "ein × für\\t1"),
        ("a\nresnet-xf: all is well", "a\\nresnet-xf: all is well"),
        ("\x1b[2J\x9b\x07\r", "\\u001b[2J\\u009b\\u0007\\r"),
        ("user\u202egpj.exe\u2066\u2028", "user\\u202egpj.exe\\u2066\\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_but_one_line_of_text_reaches_the_terminal(text: str, safe: str) -> None:
    assert printable(text) == str(SpecError(text)) == safe
    assert printable(safe) == safe


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    for letter in ("a", "\x1b"):
        text = printable(f"file: {letter * 10**6}: mend it")
        assert text.startswith("file: ")
        assert text.endswith(": mend it")
        assert len(text) <= 2000


def test_a_killed_process_s_folder_is_removed_by_the_next(tmp_path) -> None:
    code = (
        "import sys, time; from resnet_xf.support.files import temporary_folder\n"
        "with temporary_folder('mine-', sys.argv[1]) as folder:\n"
        "    (folder / 'x').touch(); print(folder, flush=True); time.sleep(100)"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    killed, living = (Path(other.stdout.readline().strip()) for other in others)
    (tmp_path / "mine-too").mkdir()
    with temporary_folder("mine-", tmp_path) as folder:
        assert killed.is_dir()
        others[0].kill()
        others[0].wait()
        with temporary_folder("mine-", tmp_path):
            assert not killed.exists()
            assert (living / "x").exists()
            assert folder.is_dir()
    assert not folder.exists()
    assert (tmp_path / "mine-too").is_dir()
    others[1].kill()
    for other in others:
        other.communicate()
