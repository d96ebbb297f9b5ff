"""Reading a checkpoint file of any known format; the format follows from the file's contents."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import (
    DESCRIPTION_KEY,
    MOST_TENSORS,
    RUN_KEY,
    Weights,
    read_safetensors,
    without_counters,
)
from resnet_xf.architecture.zoo import is_published
from resnet_xf.backend.contract import OwnsFiles, require
from resnet_xf.backend.registry import get_backend
from resnet_xf.errors import WeightsError
from resnet_xf.formats.description import Description, describe_run, read_beside
from resnet_xf.formats.gluon_params import MAGIC, read_params
from resnet_xf.formats.gluon_symbol import Symbol, read_symbol, symbol_beside
from resnet_xf.support.documents import MOST_BYTES
from resnet_xf.support.files import list_checkpoints, open_regular, reading

Format = Literal["safetensors", "pth", "params"]

SUFFIXES: dict[str, Format] = {".safetensors": "safetensors", ".pth": "pth", ".pt": "pth", ".params": "params"}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of the files that libraries write for Hugging Face's hub, beside a ``config.json``."""

EXPORTED = {".pt2": "torch", ".onnx": "onnx"}
"""The suffixes of exported networks, which are written and never read, and the backend that writes and runs each."""

TITLES = {"safetensors": "safetensors", "pth": "PyTorch state_dict", "params": "MXNet parameters"}

NO_PREFIX = re.compile(r"features|layers?\d*|stages?\d*|conv\d|bn\d|b\d|resnet_block\d|fc|output|\d+")
"""The first words of names that belong to a network, and are no wrapper's prefix."""


class CheckpointFile(msgspec.Struct, frozen=True):
    """The contents of a checkpoint file.

    Attributes:
        path: the file.
        format: its format.
        tensors: arrays by the names in the file, without step counters, the common prefix, and ``arg:``/``aux:``.
        prefix: the prefix that was removed: the chosen one, or the one that all names share.
        spec: the spec in the file or beside it, if resnet_xf wrote it.
        symbol: the graph in a ``-symbol.json`` beside it, or None.
        notes: remarks on the file.
        description: the preprocessing and the class names, in the file or beside it, without the spec; None if nothing
            is known.
    """

    path: Path
    format: Format
    tensors: Weights
    prefix: str = ""
    spec: Spec | None = None
    symbol: Symbol | None = None
    notes: tuple[str, ...] = ()
    description: Description | None = None


def sniff(path: str | Path) -> Format:
    """The format of a file, by its first bytes, or else by its suffix.

    Raises:
        WeightsError: if the file cannot be read, or has none of the known formats.
    """
    path = Path(path)
    with reading(path, WeightsError, "a checkpoint"):
        with open_regular(path) as file:
            head = file.read(16)
        return _format_of(head, path.suffix)


def is_checkpoint(network: str) -> bool:
    """Whether what a user calls a network is a checkpoint, or a folder that stands for one, and no published name."""
    path = Path(network)
    if is_published(network):
        return False
    if path.is_dir():
        return _file_in(path) is not None
    if path.suffix in (*SUFFIXES, *EXPORTED):
        return True
    with suppress(WeightsError):
        return path.suffix not in MOST_BYTES and bool(sniff(path))
    return False


def _format_of(head: bytes, suffix: str) -> Format:
    if suffix in EXPORTED:
        raise WeightsError("is an exported network, which is not read; give the checkpoint that it was made from")
    if head.startswith(MAGIC.to_bytes(8, "little")):
        return "params"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "pth"
    if head[8:9] == b"{":
        return "safetensors"
    if (by_suffix := SUFFIXES.get(suffix)) is not None:
        return by_suffix
    raise WeightsError(
        f"none of the known formats; expected {', '.join(SUFFIXES)}, as the frameworks and `resnet-xf convert` write"
    )


def _file_in(folder: Path) -> Path | None:
    """The last checkpoint in the folder of a training run, or the file in a folder for Hugging Face's hub."""
    if runs := list_checkpoints(folder):
        return runs[-1]
    files = (folder / name for name in HUB_FILES if (folder / "config.json").is_file())
    return next(filter(Path.is_file, files), None)


def _in_folder(folder: Path) -> Path:
    """Return the checkpoint in a folder that stands for one. Raises WeightsError if there is none."""
    if found := _file_in(folder):
        return found
    files = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    ways = f"name one of its files: {', '.join(files[:3])}" if files else "name a checkpoint file"
    raise WeightsError(f"{folder}: Is a directory, and not the folder of a training run; {ways}")


def read_checkpoint(path: str | Path, prefix: str | None = None, *, part: bool = False) -> CheckpointFile:
    """Read a file of any known format. Nothing is unpickled.

    Args:
        path: the file; or the folder of a training run, for its last checkpoint; or a folder for Hugging Face's hub.
        prefix: only tensors whose names begin with it are read, without it: one network of several in the file.
        part: the network is only a part of the graph beside the file.

    Raises:
        WeightsError: if the file cannot be read, is damaged, has no tensors, or none with this prefix.
        BackendError: if the file has PyTorch's format and PyTorch is not installed.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    format_ = sniff(path)
    spec, symbol, description = None, None, None
    notes: tuple[str, ...] = ()
    if format_ == "params":
        tensors = read_params(path)
        names = [name.removeprefix("arg:").removeprefix("aux:") for name in tensors]
        if len(set(names)) < len(names):
            raise WeightsError(
                f"{path}: two tensors have the same name without arg: and aux:; write it again with network.export(…)"
            )
        tensors = dict(zip(names, tensors.values(), strict=True))
        symbol = read_symbol(beside, part=part) if (beside := symbol_beside(path)) else None
    elif format_ == "safetensors":
        tensors, spec, texts = read_safetensors(path)
        description = _described(path, spec, texts)
    else:
        _check_zip(path)  # here, because importing PyTorch takes seconds
        tensors, notes = require(get_backend("torch"), OwnsFiles).read_file(path)
    tensors = without_counters(tensors)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors; save network.state_dict(), or network.save_parameters(…)")
    if unprintable := next((name for name in tensors if not name.isprintable()), None):
        raise WeightsError(f"{path}: holds a tensor with the unprintable name {unprintable!a}; rename it")
    if prefix is not None and symbol is not None:
        raise WeightsError(f"{path}: has a -symbol.json, which says what the network is; leave --prefix out")
    tensors, removed = (tensors, "") if symbol else _without_prefix(path, tensors, prefix)
    if len(tensors) > MOST_TENSORS:
        raise WeightsError(
            f"{path}: holds {len(tensors):,} tensors; at most {MOST_TENSORS:,} are read, so choose a part with --prefix"
        )
    if description is None and (description := read_beside(path)) is not None:
        spec, description = spec or description.spec, msgspec.structs.replace(description, spec=None, digest=None)
        description = None if description == Description() else description
    return CheckpointFile(path, format_, tensors, removed, spec, symbol, notes, description)


def _described(path: Path, spec: Spec | None, texts: dict[str, str]) -> Description | None:
    """The description in the metadata of a safetensors file, or None."""
    try:
        if spec is not None and RUN_KEY in texts:
            return describe_run(texts[RUN_KEY], spec)
        return Description.from_json(texts[DESCRIPTION_KEY]) if DESCRIPTION_KEY in texts else None
    except WeightsError as error:
        raise WeightsError(f"{path}: the description in its metadata is malformed: {error}") from None


def _check_zip(path: Path) -> None:
    """Raise WeightsError for a zip file that is damaged or that PyTorch has not written."""
    with reading(path, WeightsError, TITLES["pth"]), open_regular(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
            if any(entry.filename.partition("/")[2].startswith("code/") for entry in entries):
                load = f'torch.jit.load({json.dumps(str(path))}, map_location="cpu").state_dict()'
                raise WeightsError(
                    f"is a TorchScript program, and loading one can run any code. If you trust it, save its weights "
                    f"and read that file: {save_weights_command(load, path)}"
                )
            if entries and all(entry.filename.endswith(".npy") for entry in entries):
                raise WeightsError(
                    "is an .npz archive, as NumPy and MXNet 2 write it; read it by numpy.load, and write it by "
                    "safetensors.numpy.save_file"
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise WeightsError("is compressed, which PyTorch's own files never are; if it is an archive, unpack it")


def save_weights_command(expression: str, path: Path) -> str:
    """Return the command that saves the state_dict, which a Python expression gives, beside a file."""
    target = json.dumps(str(path.with_name(f"{path.stem}-weights.pth")))
    return f"python -c {shlex.quote(f'import torch; torch.save({expression}, {target})')}"


def _without_prefix(path: Path, tensors: Weights, chosen: str | None) -> tuple[Weights, str]:
    """Take off the chosen prefix, or else the one that all names share; return what was taken off, too."""
    prefix = _common_prefix(tensors)
    if chosen is not None:
        ends = "" if chosen.endswith((".", "_")) or not chosen else "."
        starts = [f"{before}{chosen}{end}" for before in ("", prefix) for end in {"", ends}]
        prefix = max(starts, key=lambda start: (any(name.startswith(start) for name in tensors), start.endswith(".")))
    inside = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
    if not inside:
        raise WeightsError(f"{path}: no tensor's name begins with {chosen!r}; `resnet-xf inspect --tensors` lists them")
    return inside, prefix


def _common_prefix(tensors: Weights) -> str:
    """The wrappers' prefixes that all names share, joined: ``module.backbone.``, for example."""
    prefix = ""
    while True:
        parts = [name.removeprefix(prefix).partition(".") for name in tensors]
        word = parts[0][0]
        if NO_PREFIX.fullmatch(word) or not all(first == word and rest for first, _, rest in parts):
            return prefix
        prefix += f"{word}."
