"""Files that are never seen half-written, and the folder of a training run, in which one process writes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnet_xf.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

FOLDER, PREFIX = "checkpoints", "step-"
"""The subfolder of a run's checkpoints, and the start of their file names."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``: renamed to it if the block succeeds, removed if it fails."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())  # otherwise a power cut could keep the name and lose the bytes
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the checkpoints in a run's folder, oldest first."""
    return sorted((Path(run) / FOLDER).glob(f"{PREFIX}*.safetensors"))


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
