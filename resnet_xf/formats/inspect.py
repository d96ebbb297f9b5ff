"""The tensors in a checkpoint file, and the network that they are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.description import Description
from resnet_xf.formats.files import TITLES, read_checkpoint
from resnet_xf.formats.identify import identify, twins


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor of a file: its name there, its shape and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a checkpoint file.

    Attributes:
        path: the file.
        format: in words.
        bytes: size of the file.
        network: the spec's name, the number of classes and the family of the names; None if no network fits.
        spec: the network, or None.
        others: names of zoo specs of other arithmetic with the same names and shapes.
        prefix: the common prefix of all names.
        tensors: every tensor, in the order of the file.
        numbers: number of values in all tensors.
        dtypes: of the tensors.
        problem: why no network fits, or None.
        description: the preprocessing and the class names; None if nothing is known.
    """

    path: str
    format: str
    bytes: int
    network: str | None
    spec: Spec | None
    others: tuple[str, ...]
    prefix: str
    tensors: tuple[TensorInfo, ...]
    numbers: int
    dtypes: tuple[str, ...]
    problem: str | None
    description: Description | None = None


def inspect(path: str | Path, spec: Plan | Spec | str | None = None, prefix: str | None = None) -> Inspection:
    """Read a checkpoint and identify its network; ``prefix`` is that of its names, if the file has more than it.

    Raises:
        WeightsError: if the file cannot be read.
        BackendError: if the file has PyTorch's format and PyTorch is not installed.
    """
    file = read_checkpoint(path, prefix)
    expected = None if spec is None else plan(spec)
    identity, problem = None, None
    try:
        identity = identify(file, expected)
    except (WeightsError, SpecError) as error:
        problem = str(error).removeprefix(f"{path}: ")
    network = None
    found = identity.plan.spec if identity else None
    if identity and found:
        network = f"{found.name}, {found.num_classes} classes, names of {identity.read_as}"
    return Inspection(
        path=str(path),
        format=TITLES[file.format],
        bytes=file.path.stat().st_size,
        network=network,
        spec=found,
        others=tuple(one.name for one in twins(identity.plan)) if identity else (),
        prefix=file.prefix + (identity.prefix if identity else ""),
        tensors=tuple(TensorInfo(name, array.shape, str(array.dtype)) for name, array in file.tensors.items()),
        numbers=sum(array.size for array in file.tensors.values()),
        dtypes=tuple(sorted({str(array.dtype) for array in file.tensors.values()})),
        problem=problem,
        description=file.description,
    )
