"""Reads ``evidence.npz``: what the file of ``resnet-xf capture-script`` recorded of a network where MXNet runs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.weights import MOST_TENSORS, Array, Weights
from resnet_xf.errors import EvidenceError, WeightsError
from resnet_xf.formats.gluon_symbol import MOST_NODES, Symbol, read_symbol
from resnet_xf.ladder.capture.script import CHUNKS, FORMAT, digest
from resnet_xf.support.files import open_regular, reading, temporary_folder

MEMBERS = {
    **dict.fromkeys(("facts", "graph"), "u1"),
    **dict.fromkeys(("images", "output_float32", "repeated_output", "step_float32"), "<f4"),
    **dict.fromkeys(("output_float64", "targets", "step_float64", "layers", "weights"), "<f8"),
    **{f"{what}_{dtype}": "<f8" for what in ("gradients", "statistics") for dtype in ("float32", "float64")},
}
"""The arrays of the file by name, and their dtypes."""

MOST_BYTES = 2**28
"""The most bytes of all arrays together. The sums for ResNet-152 are 4 MB, and four images of 512×512 are 13 MB."""

MOST_VALUES = 2**32
"""The most values of one array of the network, or of one layer's output."""


class RecordedArray(msgspec.Struct, frozen=True):
    """What the file says of one weight or running statistic of the network, besides a sketch of its values.

    Attributes:
        shape: the array's shape.
        sha256: the digest of its values in float32.
        zero: whether all its values are 0.
        learns: whether it has a gradient; running statistics have none.
    """

    shape: tuple[int, ...]
    sha256: str
    zero: bool
    learns: bool


class Facts(msgspec.Struct, frozen=True):
    """What the file says besides its arrays. Names of nodes and arrays are those of MXNet's graph.

    Attributes:
        format: the version of the format.
        mxnet, python, numpy: the versions with which it was recorded.
        head: the node whose output is the network's.
        softmax: the softmax node after ``head``, which was left out; empty if there was none.
        layers: for each operator node, the shape of its output.
        losses: for each dtype, the loss of the training step.
        arrays: the network's weights and running statistics, by name.
        sha256: the digest of each array of the file, by the names in :data:`MEMBERS`.
    """

    format: int
    mxnet: str
    python: str
    numpy: str
    head: str
    softmax: str
    layers: dict[str, tuple[int, ...]]
    losses: dict[str, float]
    arrays: dict[str, RecordedArray]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Evidence:
    """The contents of an evidence file: what an original MXNet network computed.

    Attributes:
        path: the file.
        facts: see :class:`Facts`.
        symbol: the graph.
        arrays: the file's arrays, by the names in :data:`MEMBERS`.
        parts: those arrays of the file that were joined from many, split again: by name in :data:`MEMBERS`, then by
            name in the graph. Sketches of ``layers``, ``weights`` and ``gradients_*``; the values of ``statistics_*``.
    """

    path: Path
    facts: Facts
    symbol: Symbol
    arrays: Weights
    parts: dict[str, Weights]

    def stand_ins(self) -> Weights:
        """Return an array of the right shape for each weight and running statistic, by name in the graph.

        Small ones have their values. Of large ones only a sketch was recorded: these are zeros if the original's were
        all 0, else ones.
        """
        arrays = {}
        for name, one in self.facts.arrays.items():
            values = self.parts["weights"][name]
            whole = values.size == prod(one.shape)
            arrays[name] = (
                values.astype(np.float32).reshape(one.shape)
                if whole
                else np.broadcast_to(np.float32(not one.zero), one.shape)
            )
        return arrays


def read_evidence(path: str | Path) -> Evidence:
    """Read and check an evidence file, which ``capture-script``'s file wrote. Nothing is unpickled.

    Raises:
        EvidenceError: if it cannot be read, is damaged, or is of another version.
    """
    path = Path(path)
    with reading(path, EvidenceError, "evidence of `resnet-xf capture-script`", "; capture again"):
        arrays = _read_arrays(path)
        facts = msgspec.json.decode(arrays["facts"].tobytes(), type=Facts)
        if facts.format != FORMAT:
            raise EvidenceError(f"is of format {facts.format}, and this resnet-xf reads {FORMAT}; capture again")
        _check(facts, arrays)
        shapes = {name: one.shape for name, one in facts.arrays.items()}
        learning = {name: shape for name, shape in shapes.items() if facts.arrays[name].learns}
        statistics = {name: shape for name, shape in shapes.items() if name not in learning}
        parts = {"layers": _split("layers", arrays, facts.layers), "weights": _split("weights", arrays, shapes)}
        for dtype in ("float32", "float64"):
            parts[f"gradients_{dtype}"] = _split(f"gradients_{dtype}", arrays, learning)
            parts[f"statistics_{dtype}"] = _split(f"statistics_{dtype}", arrays, statistics, MOST_BYTES)
        return Evidence(path, facts, _read_graph(path, arrays["graph"]), arrays, parts)


def _read_arrays(path: Path) -> Weights:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if wrong := entries.keys() ^ MEMBERS.keys():
            raise EvidenceError(f"is no evidence of `capture-script`: {min(wrong)!a} is missing or left over")
        if sum(entry.file_size for entry in entries.values()) > MOST_BYTES:
            raise EvidenceError(f"holds more than {MOST_BYTES:,} bytes")
        return {name: _read_array(name, archive.read(entry)) for name, entry in entries.items()}


def _read_array(name: str, data: bytes) -> Array:
    """Return the array in the bytes of a ``.npy`` file; ``name`` is one of :data:`MEMBERS`.

    Raises:
        EvidenceError: if the header does not fit the bytes or the expected dtype, or a value is not finite.
    """
    stream = io.BytesIO(data)
    header: Any = np.lib.format  # its functions have no types
    header.read_magic(stream)
    shape, fortran, dtype = header.read_array_header_1_0(stream)
    if dtype != np.dtype(MEMBERS[name]) or fortran or prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise EvidenceError(f"{name}: has dtype {dtype} and shape {shape}, which do not fit its {len(data)} bytes")
    array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
    if not np.isfinite(array).all():
        raise EvidenceError(f"{name}: holds NaN or infinite values")
    return array


def _check(facts: Facts, arrays: Weights) -> None:
    """Raise EvidenceError if an array does not match its digest, or a shape or count is not possible."""
    for name, array in arrays.items():
        if name != "facts" and facts.sha256.get(name) != digest(array):
            raise EvidenceError(f"{name} is not what was recorded; the file is damaged or was changed; capture again")
    if len(facts.arrays) > MOST_TENSORS or len(facts.layers) > MOST_NODES:
        raise EvidenceError(f"names {len(facts.arrays):,} arrays and {len(facts.layers):,} layers; a network has fewer")
    recorded = {name: one.shape for name, one in facts.arrays.items()}
    for name, shape in [*recorded.items(), *facts.layers.items()]:
        if any(size < 0 for size in shape) or prod(shape) > MOST_VALUES:
            raise EvidenceError(f"{name!a} has the shape {shape}")
    images, outputs = arrays["images"], [arrays[name] for name in MEMBERS if "output" in name or name[:4] == "step"]
    expected = (len(images), arrays["targets"].shape[-1]) if images.ndim and arrays["targets"].ndim == 2 else ()
    if images.ndim != 4 or any(output.shape != expected for output in (*outputs, arrays["targets"])):
        raise EvidenceError(f"images of shape {images.shape} and outputs of shape {outputs[0].shape}")
    if facts.losses.keys() != {"float32", "float64"}:
        raise EvidenceError(f"holds losses in {', '.join(facts.losses)}; expected float32 and float64")


def _split(key: str, arrays: Weights, shapes: Mapping[str, Shape], longest: int = CHUNKS) -> Weights:
    """Split the flat array ``arrays[key]`` and return its parts by name, in the order of ``shapes``.

    A part has as many values as its shape, but at most ``longest``. Raises EvidenceError if the sizes do not add up.
    """
    joined, at, parts = arrays[key], 0, {}
    for name, shape in shapes.items():
        size = min(prod(shape), longest)
        parts[name] = joined[at : at + size]
        at += size
    if joined.shape != (at,):
        raise EvidenceError(f"{key}: has the shape {joined.shape}, expected {(at,)}")
    return parts


def _read_graph(path: Path, text: Array) -> Symbol:
    with temporary_folder() as folder:
        graph = folder / f"{path.stem}-symbol.json"
        graph.write_bytes(text.tobytes())
        try:
            return read_symbol(graph)
        except WeightsError as error:
            raise EvidenceError(f"the graph: {str(error).removeprefix(f'{graph}: ')}") from None
