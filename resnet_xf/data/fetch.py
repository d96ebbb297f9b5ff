"""Read the files of a published data set: from a folder, or downloaded once and checked by checksum."""

from __future__ import annotations

import gzip
import io
import logging
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from resnet_xf.errors import DataError
from resnet_xf.support.files import open_regular, reading

TIMEOUT = 30
"""Seconds in which a server must answer."""

MOST_BYTES = 2**28
"""The most bytes of an unpacked archive; CIFAR-100's has 185 million."""


@dataclass(frozen=True)
class Source:
    """A published data set's files.

    Attributes:
        name: the data set's name.
        files: each file that is read, and the published archive that holds it: the file as .gz, or a .tar.gz.
        md5s: the checksum of each archive.
        mirrors: URLs of folders with the archives, tried in this order.
        folders: where the files may be below ``data_dir``; in a .tar.gz they are in the last one.
        refused: files of another version, which are not read.
        why_refused: why, for the message.
        hint: another way to get the files, for the message.
    """

    name: str
    files: Mapping[str, str]
    md5s: Mapping[str, str]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    refused: tuple[str, ...] = ()
    why_refused: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Content:
    """A file's unpacked bytes, and where they came from, for messages."""

    where: str
    data: bytes

    def damaged(self, problem: str) -> DataError:
        """Return the error that says what is wrong with the file."""
        return DataError(f"{self.where}: {problem}, so get it again")


def read_files(source: Source, data_dir: str | Path | None, progress: bool) -> dict[str, Content]:
    """Return the data set's files by name, from ``data_dir``, or else from the user's cache or a mirror.

    Raises DataError if a file is missing, damaged or cannot be downloaded.
    """
    if data_dir is None:
        archives = {archive: _download(source, archive, progress) for archive in source.md5s}
        paths = {name: archives[archive] for name, archive in source.files.items()}
    elif not Path(data_dir).is_dir():
        raise DataError(f"{data_dir}: no such folder; {instructions(source)}")
    else:
        paths = {name: _locate(source, name, Path(data_dir)) for name in source.files}
    contents: dict[str, Content] = {}
    for path in dict.fromkeys(paths.values()):
        names = [name for name in paths if paths[name] == path]
        with reading(path, DataError, f"a file of {source.name}", "; get it again"):
            contents.update(_unpack(path, names, source.folders[-1]))
    return contents


def _locate(source: Source, name: str, data_dir: Path) -> Path:
    """Return the path of a file, or of the archive that holds it, in a folder."""
    archive = source.files[name]
    places = (data_dir / folder / file for folder in source.folders for file in (name, archive))
    if path := next(filter(Path.is_file, places), None):
        return path
    other = next((data_dir / path for path in source.refused if (data_dir / path).exists()), None)
    note = f"; {other} {source.why_refused}" if other else ""
    expected = archive if archive.endswith(".tar.gz") else f"{name} or {archive}"
    raise DataError(f"{data_dir}: holds no {expected}, which {source.name} needs{note}; {instructions(source)}")


def instructions(source: Source) -> str:
    """Return how to get the files by hand."""
    files = f"{', '.join(source.md5s)} from {source.mirrors[0]}"
    hint = f" ({source.hint})" if source.hint else ""
    return f"get {files}{hint} and name their folder: --data-dir FOLDER"


def _unpack(path: Path, names: Collection[str], folder: str) -> Iterator[tuple[str, Content]]:
    """Read files from an archive or a plain file. Nothing is written to disk, so an archive can do no harm."""
    with open_regular(path) as file:
        data = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes, so get it again")
    if not path.name.endswith(".tar.gz"):
        yield from ((name, Content(str(path), data)) for name in names)
        return
    missing = {f"{folder}/{name}": name for name in names}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if member.isfile() and member.name in missing and (part := archive.extractfile(member)) is not None:
                yield missing.pop(member.name), Content(f"{path}: {member.name}", part.read())
    if missing:
        raise tarfile.TarError(f"it holds no {', '.join(missing)}")


def _download(source: Source, archive: str, progress: bool) -> Path:
    """Return an archive's path in the user's cache, after a download from the first mirror that has it if needed."""
    import pooch
    from tqdm import tqdm

    cache = Path(pooch.os_cache("resnet_xf")) / source.name  # MNIST and Fashion-MNIST have the same file names
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot be made ({error.strerror}); {instructions(source)}") from None
    failures, md5, logger = [], f"md5:{source.md5s[archive]}", pooch.get_logger()
    for mirror in source.mirrors:
        # disable=None shows the bar only on a terminal; pooch replaces the total.
        bar = tqdm(desc=archive, total=1, unit="B", unit_scale=True, leave=False, disable=not progress or None)
        with bar, ExitStack() as stack:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)  # it reports what succeeds, too
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT)
            try:
                return Path(pooch.retrieve(mirror + archive, md5, archive, cache, downloader=downloader))
            except (OSError, ValueError) as error:  # all errors of requests are OSErrors
                failures.append(f"{mirror} ({_reason(error)})")
    raise DataError(f"{archive}: cannot be fetched from {', '.join(failures)}; {instructions(source)}")


def _reason(error: OSError | ValueError) -> str:
    """Return why a download failed, in a few words."""
    if (response := getattr(error, "response", None)) is not None:
        return f"it answers {response.status_code}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "what it sends is another file: the checksum differs"
