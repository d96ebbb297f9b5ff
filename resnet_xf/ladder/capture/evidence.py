"""Writes and reads the files of a capture: one network's measurements, saved in a folder.

``manifest.json`` holds everything but arrays. ``arrays-000.safetensors`` and so on hold each array once, under its
digest. The manifest contains a digest of itself. So damage is noticed when a capture is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnet_xf.architecture.measures import array_digest
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.report.report import Level
from resnet_xf.support.documents import Document, Struct
from resnet_xf.support.files import atomic, open_regular, read_bytes, reading

MANIFEST, VERSION = "manifest.json", 3

MOST_BYTES = 2**26
"""The largest manifest that is read, in bytes."""

ACCURACY = "accuracy"
"""The key under which a capture saves its :class:`TrialRecord`."""


class TrialRecord(Struct, frozen=True, kw_only=True):
    """The test accuracies that one backend's training runs of rung 10 reached.

    Attributes:
        dataset, recipe: the data set's name, and the training recipe as complete JSON.
        accuracies: the accuracy of each seed's run, in percent.
        commonest: the share of the most common class among the test images, in percent.
    """

    dataset: str
    recipe: str
    accuracies: tuple[float, ...]
    commonest: float


class Manifest(Document, frozen=True, kw_only=True):
    """Everything in a capture but the arrays.

    Attributes:
        version: the version of the format.
        digest: BLAKE2b (16 bytes, in hex) of all other fields, as :func:`manifest_digest` computes it.
        spec: the network.
        level: the highest level at which the capture can be compared.
        seed: the seed of drawn weights, and of the training runs.
        backend, backend_version, device: which backend was measured, and where it ran.
        unbiased_variance: see :class:`resnet_xf.backend.contract.Backend`.
        environment: the software of the machine.
        recipe: the recipe of the training run of rungs 7 and 8, as complete JSON.
        precisions: the precisions in which the output was measured, besides float32 and float64.
        weights, images: where they came from, in words.
        cannot: for each capability that the backend lacks, why.
        evidence: the inputs and the measurements, by key, as plain data in which digests stand for arrays.
    """

    title = "a capture"
    error = EvidenceError

    version: int = VERSION
    digest: str = ""
    spec: Spec
    level: Level
    seed: int
    backend: str
    backend_version: str
    device: str
    unbiased_variance: bool
    environment: dict[str, str]
    recipe: str
    precisions: tuple[str, ...]
    weights: str
    images: str
    cannot: dict[str, str] = msgspec.field(default_factory=dict)
    evidence: dict[str, Any]

    @property
    def trial(self) -> TrialRecord | None:
        """The accuracies of rung 10; None if they were not captured."""
        return msgspec.convert(self.evidence[ACCURACY], TrialRecord) if ACCURACY in self.evidence else None


class Writer:
    """Writes arrays into a capture's folder, each once, and collects all else in ``evidence``, for the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.evidence: dict[str, Any] = {}
        self._written: set[str] = set()
        self._files = 0

    def save(self, key: str, value: object) -> None:
        """Save a value under a key: its arrays in a file, the rest in ``evidence``.

        The value consists of arrays, plain data and dataclasses.

        Raises:
            EvidenceError: if a number in it is not finite, or a file cannot be written.
        """
        arrays: dict[str, Array] = {}

        def encode(item: Any) -> Any:
            if isinstance(item, np.generic):
                return item.item()
            arrays[mark := array_digest(item)] = np.ascontiguousarray(item)
            return mark

        self.evidence[key] = data = msgspec.to_builtins(value, enc_hook=encode)
        if not _is_finite(data):
            raise EvidenceError(
                f"{key}: what was measured is not finite, so nothing can be compared with it; does the network "
                "overflow with these weights and images? `resnet-xf parity --level quick` says where"
            )
        new = {mark: array for mark, array in arrays.items() if mark not in self._written}
        path = self.folder / f"arrays-{self._files:03d}.safetensors"
        if new:
            try:
                with atomic(path) as temporary:
                    save_file(new, temporary)
            except (OSError, SafetensorError) as error:
                raise EvidenceError(f"{path}: cannot be written: {error}") from None
            self._files += 1
            self._written |= set(new)


def _is_finite(data: Any) -> bool:
    """Return whether all numbers in nested dicts, lists and tuples are finite."""
    if isinstance(data, dict):
        return all(map(_is_finite, data.values()))
    if isinstance(data, list | tuple):
        return all(map(_is_finite, data))
    return not isinstance(data, float) or isfinite(data)


class Reader:
    """Reads a capture's folder, one value at a time.

    Raises:
        EvidenceError: if a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("arrays-*.safetensors")):
            with _opened(path) as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def load(self, key: str, kind: Any) -> Any:
        """Return the value that was saved under ``key``, converted to type ``kind``.

        Raises:
            EvidenceError: if it was not captured, or is damaged.
        """
        if key not in self.manifest.evidence:
            raise EvidenceError(f"{self.folder}: holds no {key}; capture again with this version of resnet-xf")
        try:
            return msgspec.convert(self.manifest.evidence[key], kind, dec_hook=lambda kind, mark: self._get(mark, key))
        except Exception as error:  # msgspec's own replaces that of the hook, which is then the cause
            if isinstance(error.__cause__, EvidenceError):
                raise error.__cause__ from None
            raise EvidenceError(f"{self.folder / MANIFEST}: evidence: {key}: {error}; capture again") from None

    def _get(self, mark: str, key: str) -> Array:
        """Return the array whose digest is ``mark``; raise EvidenceError, with ``key``, if it is missing or damaged."""
        path = self._files.get(mark)
        if path is None:
            raise EvidenceError(f"{self.folder}: lacks the file that holds {key}; copy the whole folder")
        with _opened(path) as file:
            array: Array = file.get_tensor(mark)
        if array_digest(array) != mark:
            raise EvidenceError(f"{path}: {key} is not what was captured; the file is damaged or was changed")
        return array


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield an open safetensors file; raise EvidenceError if it cannot be read."""
    with (
        reading(path, EvidenceError, "safetensors", "; capture again"),
        open_regular(path),
        safe_open(path, framework="numpy") as file,
    ):
        yield file


def manifest_digest(data: Mapping[str, Any]) -> str:
    """Return the digest of a manifest's fields, without ``digest`` itself. ``data`` has the fields as plain data."""
    rest = {field: value for field, value in data.items() if field != "digest"}
    return blake2b(msgspec.json.encode(rest, order="deterministic"), digest_size=16).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, with its digest, into a capture's folder."""
    path = folder / MANIFEST
    data = msgspec.json.decode(manifest.to_complete_json())
    data["digest"] = manifest_digest(data)
    with atomic(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))


def read_manifest(folder: str | Path) -> Manifest:
    """Read a capture's manifest.

    Raises:
        EvidenceError: if there is none, it is malformed or was changed, or it is of another version.
    """
    path = Path(folder) / MANIFEST
    if not Path(folder).exists():
        raise EvidenceError(f"{folder}: there is no such file or folder")
    if not path.exists():
        raise EvidenceError(f"{folder}: holds no capture; expected {path}, as `resnet-xf capture` writes it")
    with reading(path, EvidenceError, "a capture's manifest", "; capture again"):
        data = msgspec.json.decode(read_bytes(path, MOST_BYTES), type=dict[str, Any])
        if (version := data.get("version")) != VERSION:
            raise EvidenceError(
                f"is of version {version} of this format, and this resnet-xf reads version {VERSION}; capture again"
            )
        if data.get("digest") != manifest_digest(data):
            raise EvidenceError("is not what was captured; the file is damaged or was changed; capture again")
        manifest = Manifest.from_json(msgspec.json.encode(data).decode())
        manifest.trial  # noqa: B018 - raises if it is malformed
        return manifest
