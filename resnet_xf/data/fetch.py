"""The files of published data sets: found in a folder, or fetched once and held to their checksums."""

from __future__ import annotations

import gzip
import logging
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_xf.errors import DataError, one_line

TIMEOUT = 30
"""Seconds in which a server must answer."""


@dataclass(frozen=True)
class Source:
    """A published data set's files.

    Attributes:
        name: of the data set.
        files: the files that are read, and the published one that holds each: itself as .gz, or a .tar.gz.
        md5s: of the published files.
        mirrors: addresses of folders that hold them, in the order in which they are tried.
        folders: where they may lie below a folder given; in a .tar.gz they lie in the last.
        unread: another version's files, which are not read, and why.
        hint: another way to get them.
    """

    name: str
    files: Mapping[str, str]
    md5s: Mapping[str, str]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    unread: tuple[tuple[str, ...], str] = ((), "")
    hint: str = ""


@dataclass(frozen=True)
class Content:
    """The bytes of a file, unpacked, and where they were, for messages."""

    where: str
    data: bytes


def contents(source: Source, data_dir: str | Path | None, progress: bool) -> dict[str, Content]:
    """The data set's files by name, unpacked: from ``data_dir``, or else from the user's cache or a mirror.

    Raises:
        DataError: if one is not there, cannot be fetched, or is damaged.
    """
    if data_dir is None:
        fetched = {archive: _fetched(source, archive, progress) for archive in source.md5s}
        found = {name: fetched[archive] for name, archive in source.files.items()}
    elif not Path(data_dir).is_dir():
        raise DataError(f"{data_dir}: no such folder; {_by_hand(source)}")
    else:
        found = {name: _found(source, name, Path(data_dir)) for name in source.files}
    unpacked: dict[str, Content] = {}
    for path in dict.fromkeys(found.values()):
        names = [name for name in found if found[name] == path]
        ending = next(ending for ending in _READERS if path.name.endswith(ending))
        try:
            unpacked.update(_READERS[ending](path, names, source.folders[-1]))
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            why = one_line(error)
            raise DataError(f"{path}: not readable ({why}); expected {source.name}'s own, so get it again") from None
    return unpacked


def _found(source: Source, name: str, data_dir: Path) -> Path:
    """The file of that name in a folder, or else the published one that holds it."""
    archive = source.files[name]
    for folder in source.folders:
        for path in (data_dir / folder / name, data_dir / folder / archive):
            if path.is_file():
                return path
    unread, why = source.unread
    other = next((f"; {data_dir / there} {why}" for there in unread if (data_dir / there).exists()), "")
    expected = archive if archive.endswith(".tar.gz") else f"{name} or {archive}"
    raise DataError(f"{data_dir}: holds no {expected}, which {source.name} needs{other}; {_by_hand(source)}")


def _by_hand(source: Source) -> str:
    """How to get the files without us."""
    files = f"{', '.join(source.md5s)} from {source.mirrors[0]}"
    hint = f" ({source.hint})" if source.hint else ""
    return f"get {files}{hint} and name their folder: --data-dir FOLDER"


def _tar(path: Path, names: Collection[str], folder: str) -> Iterator[tuple[str, Content]]:
    """Files of an archive, read in place: none is written anywhere, so no name in it can do harm."""
    wanted = {f"{folder}/{name}": name for name in names}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.isfile() and member.name in wanted and (file := archive.extractfile(member)) is not None:
                yield wanted.pop(member.name), Content(f"{path}: {member.name}", file.read())
    if wanted:
        raise tarfile.TarError(f"it holds no {', '.join(wanted)}")


def _gz(path: Path, names: Collection[str], folder: str) -> Iterator[tuple[str, Content]]:
    with gzip.open(path) as file:
        data = file.read()
    return ((name, Content(str(path), data)) for name in names)


def _plain(path: Path, names: Collection[str], folder: str) -> Iterator[tuple[str, Content]]:
    data = path.read_bytes()
    return ((name, Content(str(path), data)) for name in names)


_READERS: dict[str, Callable[[Path, Collection[str], str], Iterator[tuple[str, Content]]]] = {
    ".tar.gz": _tar,
    ".gz": _gz,
    "": _plain,
}
"""By how a file's name ends."""


def _fetched(source: Source, name: str, progress: bool) -> Path:
    """A published file in the user's cache, put there from the first mirror that has it."""
    import pooch

    # MNIST's files and Fashion-MNIST's bear the same names.
    cache = Path(pooch.os_cache("resnet_xf")) / source.name
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot be made ({error.strerror}); {_by_hand(source)}") from None
    failures = []
    for mirror in source.mirrors:
        with _quiet(pooch.get_logger()), _bar(name, progress) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT)
            try:
                md5 = f"md5:{source.md5s[name]}"
                return Path(pooch.retrieve(mirror + name, md5, name, cache, downloader=downloader))
            except (OSError, ValueError) as error:  # all that requests raises is an OSError
                failures.append(f"{mirror} ({_reason(error)})")
    raise DataError(f"{name}: cannot be fetched from {', '.join(failures)}; {_by_hand(source)}")


def _reason(error: OSError | ValueError) -> str:
    """Why a file was not fetched, in a few words; what requests and pooch say is long."""
    if (response := getattr(error, "response", None)) is not None:
        return f"it answers {response.status_code}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "what it sends is another file: the checksum differs"


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from telling what goes well."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Bar:
    """One line of progress, as pooch drives it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.task = progress, progress.add_task(name, total=None, visible=False)

    @property
    def total(self) -> float | None:
        return self.progress.tasks[0].total

    @total.setter
    def total(self, total: int) -> None:
        # A server that does not tell the length is taken by pooch to tell 0.
        self.progress.update(self.task, total=total or None, visible=True)

    def update(self, count: int) -> None:
        self.progress.advance(self.task, count)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        """Nothing: whoever opened the display closes it, also when the connection breaks."""


@contextmanager
def _bar(name: str, shown: bool) -> Iterator[_Bar]:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        yield _Bar(progress, name)
