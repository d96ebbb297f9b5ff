"""How files are read and written, and the folder of a training run, in which one process writes.

Every reader works inside :func:`reading` and opens files by :func:`open_regular`; every output is written by
:func:`atomic`.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from resnet_xf.errors import CheckpointError, MissingExtraError, ResNetXFError, one_line, printable

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

FOLDER, PREFIX = "checkpoints", "step-"
"""The subfolder of a run's checkpoints, and the start of their file names."""

ALIVE = ".alive"
"""A file in a temporary folder, locked while the process lives that made the folder."""

STREAMS = ("/dev/std", "/dev/fd/", "/proc/")
"""Paths that begin so are open streams, even if a regular file is behind them."""

MISTAKEN = {
    b"": "it is empty",
    b"version https://git-lfs": "it is a Git LFS pointer and not the file itself; get that by `git lfs pull`",
    b"<!doctype html": "it is a web page and not the file itself; download that one",
    b"<html": "it is a web page and not the file itself; download that one",
    b"<?xml": "it is an XML text, perhaps a server's error message; download the file again",
}
"""What is often saved under the name of another file: its first bytes in lower case, and the message."""


def open_regular(path: str | Path, block: int = -1) -> BinaryIO:
    """Open a regular file to read its bytes, by default or in blocks of some bytes.

    Raises:
        OSError: if there is no such file, or it is a folder, a device or a FIFO, at which a reader could wait for ever.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(kind) else "is not a regular file", str(path))
    return os.fdopen(handle, "rb", block)


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: as :func:`open_regular`, and if it has more than ``most`` bytes.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", str(path))
    return data


class reading(AbstractContextManager[None]):  # noqa: N801 - used as a function; a class tells mypy that it returns
    """Within the block, turn every exception but MissingExtraError into ``error``; its message begins with the path.

    ``with reading(path, WeightsError, "a state_dict"): …`` raises ``net.pth: not readable as a state_dict: …``.

    Args:
        path: the file that is read.
        error: what is raised.
        what: what the file should be, for the message.
        hint: the end of the message, which says how to mend it.
    """

    def __init__(self, path: str | Path, error: type[ResNetXFError], what: str, hint: str = "") -> None:
        self.path, self.error, self.what, self.hint = path, error, what, hint

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        if not isinstance(problem, Exception) or isinstance(problem, MissingExtraError):
            return
        # Parsers raise exceptions of every kind for damaged files.
        if isinstance(problem, OSError) and problem.strerror:
            reason = problem.strerror
        elif mistaken := _mistaken(self.path):
            reason = f"not readable as {self.what}: {mistaken}"
        elif isinstance(problem, ResNetXFError):
            reason = str(problem).removeprefix(printable(f"{self.path}: "))
        elif isinstance(problem, MemoryError | UnicodeDecodeError):
            reason = "not UTF-8 text" if isinstance(problem, ValueError) else "needs more memory than there is"
        else:
            reason = f"not readable as {self.what}: {one_line(problem)}{self.hint}"
        raise self.error(f"{self.path}: {reason}") from None


def _mistaken(path: str | Path) -> str | None:
    """What a file is that was saved under the name of another one; None if it is none of ``MISTAKEN``."""
    with suppress(OSError, ValueError), open_regular(path) as file:
        head = file.read(64).lstrip().lower()
        return next((what for start, what in MISTAKEN.items() if head[: len(start) or None] == start), None)
    return None


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file, which replaces ``path`` if the block succeeds and is removed if it fails.

    A link is followed, and the file that it names is replaced. What exists and is no regular file, as a device or a
    FIFO, gets the bytes when the block has succeeded.

    Raises:
        OSError: if ``path`` is a folder, a link that leads to itself, or cannot be written.
    """
    path = Path(path)
    stream = os.path.abspath(path).startswith(STREAMS) or (path.exists() and not path.is_file())
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "is a link that leads to itself", str(path))
    # Named before it is there: a signal may come at any moment, and leaves no file.
    place = Path(tempfile.gettempdir()) if stream else target.parent
    temporary = place / f".{target.name[:100]}.{token_hex(8)}"
    try:
        try:
            temporary.touch(0o600, exist_ok=False)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        yield temporary
        if stream:
            with open(temporary, "rb") as written, open(path, "ab") as out:
                shutil.copyfileobj(written, out)
            return
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~umask)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())  # otherwise a power cut could keep the name and lose the bytes
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the checkpoints in a run's folder, oldest first."""
    return sorted((Path(run) / FOLDER).glob(f"{PREFIX}*.safetensors"))


@contextmanager
def temporary_folder(prefix: str = "resnet-xf-", place: str | Path | None = None) -> Iterator[Path]:
    """Give a temporary folder, which is removed at the end.

    It holds a file that is locked while this process lives. Folders of the same prefix and user whose lock is free are
    removed first: their processes were killed.

    Args:
        prefix: the beginning of its name.
        place: the folder that it is made in; if None, the system's for temporary files.
    """
    for path in Path(place or tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*/{ALIVE}"):
        with suppress(OSError):
            if fcntl is None or path.parent.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            with open_regular(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
    folder = Path(place or tempfile.gettempdir()) / f"{prefix}{token_hex(8)}"
    try:  # before the folder is there: a signal may come at any moment
        folder.mkdir(0o700)
        with open(folder / ".new", "wb") as file:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.rename(file.name, folder / ALIVE)  # only now, so that nobody finds it unlocked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(path: str | Path, error: type[ResNetXFError]) -> Iterator[Path]:
    """Give a temporary folder, which becomes ``path`` if the block succeeds and is removed if it fails.

    A link is followed. An OSError in the block becomes ``error``.

    Raises:
        ResNetXFError: ``error``, if ``path`` is no empty folder, is in no folder, or cannot be written.
    """
    path = Path(path).resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise error(f"{path}: is there already; choose a new folder")
    if not path.parent.is_dir():
        raise error(f"{path}: there is no folder {path.parent}; make it first")
    try:
        with temporary_folder(f".{path.name}.", path.parent) as place:
            inside = place / path.name
            inside.mkdir()
            yield inside
            if path.exists():
                path.rmdir()
            inside.rename(path)
    except OSError as problem:
        raise error(f"{path}: cannot be written: {problem.strerror or problem}") from None


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Create a run's folder if need be, and keep other processes out of it. The lock ends with the process.

    Raises:
        CheckpointError: if another process trains there, or the folder cannot be created.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CheckpointError(f"{run}: cannot be a run's folder: {error.strerror}; choose another by --out") from None
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CheckpointError(f"{run}: another process trains there; wait for it or choose another --out") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)
