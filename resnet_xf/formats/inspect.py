"""What a checkpoint file holds, and whether that is a whole network."""

from __future__ import annotations

from pathlib import Path

import msgspec

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.files import TITLES, read_checkpoint
from resnet_xf.formats.identify import identify, twins


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor of a file: its name there, its shape and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What a file was found to hold.

    Attributes:
        path: the file.
        format: in words.
        bytes: its size.
        network: the spec's name, its number of classes and whose names the tensors have; None if nothing fits.
        spec: the network, if one fits.
        others: zoo specs of other arithmetic with the same names and shapes.
        prefix: what stands before every name.
        tensors: every one, in the order of the file.
        numbers: how many they hold together.
        dtypes: of the tensors.
        problem: what keeps it from being whole; None if nothing does.
    """

    path: str
    format: str
    bytes: int
    network: str | None
    spec: ResNetSpec | None
    others: tuple[str, ...]
    prefix: str
    tensors: tuple[TensorInfo, ...]
    numbers: int
    dtypes: tuple[str, ...]
    problem: str | None


def inspect(path: str | Path, spec: ResNetSpec | None = None) -> Inspection:
    """Read a checkpoint and say what it is.

    Raises:
        WeightsError: if the file cannot be read at all.
        BackendError: if it is PyTorch's own format and PyTorch is not installed.
    """
    file = read_checkpoint(path)
    found, problem = None, None
    try:
        found = identify(file, spec)
    except (WeightsError, SpecError) as error:
        problem = str(error).removeprefix(f"{path}: ")
    known = found.plan.spec if found else None
    network = f"{known.name}, {known.num_classes} classes, names of {found.layout.title}" if found and known else None
    return Inspection(
        path=str(path),
        format=TITLES[file.format],
        bytes=file.path.stat().st_size,
        network=network,
        spec=known,
        others=tuple(twins(found.plan)) if found else (),
        prefix=file.prefix + (found.prefix if found else ""),
        tensors=tuple(TensorInfo(name, array.shape, str(array.dtype)) for name, array in file.tensors.items()),
        numbers=sum(array.size for array in file.tensors.values()),
        dtypes=tuple(sorted({str(array.dtype) for array in file.tensors.values()})),
        problem=problem,
    )
