"""A capture on disk: all that one side answered, so that it can be compared where its framework is not installed.

A folder with ``manifest.json``, which tells everything but arrays, and ``arrays-000.safetensors`` and so on, in which
every array stands once, under its fingerprint, so that one that was damaged or changed is noticed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.trace import Observed
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.report.report import Level
from resnet_xf.ladder.sides.side import Curve, Own, fingerprint
from resnet_xf.support.documents import Document, Struct
from resnet_xf.support.files import atomic

MANIFEST, VERSION = "manifest.json", 1
"""Its name, and the version of this form of capture."""


class StepRecord(Struct, frozen=True, kw_only=True):
    """One step of the lock-step run: its loss, and what a nudge had become by then."""

    loss: float
    gain: dict[str, float]


class TrialRecord(Struct, frozen=True, kw_only=True):
    """What rung 10 needs: how it was trained, each seed's accuracy, and the commonest class's share, in percent."""

    dataset: str
    recipe: str
    accuracies: tuple[float, ...]
    commonest: float


class Manifest(Document, frozen=True, kw_only=True):
    """A capture, but for its arrays.

    Attributes:
        version: of this form of capture.
        spec: the network.
        level: how far up the ladder it reaches.
        seed: of weights that were drawn, and of the lessons.
        backend, backend_version, device: what was captured.
        unbiased_variance: see :class:`resnet_xf.backend.contract.Backend`.
        environment: the machine's software.
        recipe: of the lessons.
        precisions: in which outputs were captured, besides float32 and float64.
        weights, images: a word each on where they came from.
        probed: whether outputs under the probe's weights were captured too.
        layers: what each showed for one image.
        broken: what the framework said if that run broke.
        held, returned: of rung 2, by dtype and name.
        gain, gains, sensitivity: what nudges became, see :class:`resnet_xf.ladder.sides.side.Side`.
        own: each layer's own float32 rounding.
        losses: of rung 7, by dtype.
        lockstep: of rung 8, step by step.
        rates: the learning rates of the lessons, and of the course.
        curve: of rung 9.
        trial: of rung 10.
        arrays: the fingerprints of all arrays, by name.
    """

    title = "a capture"
    error = EvidenceError

    version: int = VERSION
    spec: ResNetSpec
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
    probed: bool
    layers: dict[str, Observed]
    broken: str | None = None
    held: dict[str, dict[str, tuple[int, ...]]]
    returned: dict[str, dict[str, str]]
    gain: float
    gains: dict[str, float] = msgspec.field(default_factory=dict)
    sensitivity: dict[str, float] = msgspec.field(default_factory=dict)
    own: dict[str, Own] = msgspec.field(default_factory=dict)
    losses: dict[str, float] = msgspec.field(default_factory=dict)
    lockstep: tuple[StepRecord, ...] = ()
    rates: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    curve: Curve | None = None
    trial: TrialRecord | None = None
    arrays: dict[str, str] = msgspec.field(default_factory=dict)


class Writer:
    """Writes arrays into a capture's folder, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}
        self._files = 0
        self._there: set[str] = set()

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Write arrays under their names; raises EvidenceError if that cannot be done."""
        found = {name: fingerprint(array) for name, array in arrays.items()}
        self.names |= found
        new = {mark: np.ascontiguousarray(arrays[name]) for name, mark in found.items() if mark not in self._there}
        if not new:
            return
        path = self.folder / f"arrays-{self._files:03d}.safetensors"
        try:
            with atomic(path) as temporary:
                save_file(new, temporary)
        except (OSError, SafetensorError) as error:
            raise EvidenceError(f"{path}: cannot be written: {error}") from None
        self._files += 1
        self._there |= set(new)


class Reader:
    """Reads arrays from a capture's folder, one at a time."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.names = names
        self._places: dict[str, Path] = {}
        for path in sorted(folder.glob("arrays-*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as file:
                    self._places |= dict.fromkeys(file.keys(), path)
            except (OSError, SafetensorError) as error:
                raise EvidenceError(f"{path}: not readable as safetensors: {error}; capture again") from None

    def get(self, name: str) -> Array:
        """The array of that name.

        Raises:
            EvidenceError: if it was not captured, or was changed since.
        """
        mark = self.names.get(name)
        if mark is None:
            raise EvidenceError(f"the capture holds no {name}; capture again with this version of resnet-xf")
        path = self._places.get(mark)
        if path is None:
            raise EvidenceError(f"the capture's folder lacks the file that holds {name}; copy the whole folder")
        with safe_open(path, framework="numpy") as file:
            array: Array = file.get_tensor(mark)
        if fingerprint(array) != mark:
            raise EvidenceError(f"{path}: {name} is not what was captured; the file is damaged or was changed")
        return array

    def all(self, prefix: str) -> Weights:
        """All arrays whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): self.get(name) for name in self.names if name.startswith(prefix)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a capture; raises EvidenceError if that cannot be done."""
    path = folder / MANIFEST
    for field, value in msgspec.to_builtins(manifest).items():
        if not _finite(value):
            raise EvidenceError(
                f"{field}: what was measured is not finite, so that nothing could be compared with it; does the "
                "network overflow with these weights and images? `resnet-xf parity --level quick` says where"
            )
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(msgspec.json.format(manifest.to_complete_json().encode(), indent=1))
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be written: {error.strerror}") from None


def _finite(value: Any) -> bool:
    """Whether all numbers in plain data are."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or isfinite(value)


def read_manifest(folder: str | Path) -> Manifest:
    """Read a capture's manifest.

    Raises:
        EvidenceError: if there is none, it is malformed, or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise EvidenceError(f"{folder}: holds no capture; expected {path}, as `resnet-xf capture` writes it")
    try:
        version = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]).get("version")
    except (msgspec.MsgspecError, OSError) as error:
        raise EvidenceError(f"{path}: not readable: {error}") from None
    if version != VERSION:
        raise EvidenceError(
            f"{path}: is of version {version} of this format, and this resnet-xf reads version {VERSION}; capture again"
        )
    return Manifest.read(path)
