"""Converting a checkpoint between frameworks, with a proof that the network is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.nodes import Norm, walk
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import (
    DESCRIPTION_KEY,
    Array,
    Weights,
    all_weight_shapes,
    cast_weights,
    check_weights,
    save_weights,
)
from resnet_xf.backend.contract import OwnsFiles, require
from resnet_xf.backend.registry import get_backend, is_installed
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, DataError, WeightsError
from resnet_xf.formats.description import UNTRAINED, Description, check_beside, path_beside, write_beside
from resnet_xf.formats.exports import Check, export, export_suffix, how_to_load
from resnet_xf.formats.files import SUFFIXES, CheckpointFile, read_checkpoint
from resnet_xf.formats.gluon_params import write_params
from resnet_xf.formats.gluon_symbol import graph_elsewhere
from resnet_xf.formats.identify import Identity, check_unambiguous, identify
from resnet_xf.formats.layouts import Layout, places
from resnet_xf.formats.loads import gluon_layout, loads_into
from resnet_xf.formats.settle import read_npy, settled
from resnet_xf.formats.verify import checked_size, output_of, verify_identity

UNKNOWN = "nothing says"
"""How the note on a missing description begins."""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a conversion.

    Attributes:
        source: the file read.
        target: the file written.
        spec: the network.
        guessed: whether the spec is assumed from names and shapes.
        assumed: what is assumed then, in words; else empty.
        graph: the exported graph that the spec was read from, or None.
        read_as: the family whose names the source has.
        written_as: the family whose names the target has.
        loads_into: which libraries' networks load the target, in words.
        prefix: removed from the beginning of every name.
        tensors: number of arrays converted.
        checks: the comparisons; empty if no framework is installed.
        notes: further remarks on the source, the target and the proof.
        description: the preprocessing and the class names that the target carries; None if nothing is known.
    """

    source: str
    target: str
    spec: Spec
    guessed: bool
    assumed: str = ""
    graph: str | None = None
    read_as: str
    written_as: str
    loads_into: str = ""
    prefix: str
    tensors: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    description: Description | None = None


def convert(
    source: str | Path,
    target: str | Path,
    spec: Plan | Spec | str | None = None,
    num_classes: int | None = None,
    *,
    prefix: str | None = None,
    verify: bool = True,
    keep_softmax: bool = False,
    backbone: bool = False,
    images: Array | str | Path | None = None,
    expected: Array | str | Path | None = None,
    precision: str | None = None,
) -> Conversion:
    """Read a checkpoint, map its arrays by name, prove that the network is the same, and write it atomically.

    If a ``-symbol.json`` lies beside a ``.params`` file, the network is what this graph says, operator by operator.
    Else it is assumed from names and shapes, unless the file or ``spec`` says it.

    Args:
        source: safetensors, a state_dict (``.pth``, ``.pt``), MXNet's ``.params``, or the folder of a training run.
        target: its suffix gives the format: ``.safetensors``, ``.pth``, ``.pt`` or ``.params``; or a network that runs
            without this package, as :func:`resnet_xf.formats.exports.export` writes it: ``.pt2``, ``.onnx``, or a
            folder for timm, which has no suffix or ends in a slash.
        spec: the network that it must be: a plan, a spec, the name of one, or the path of its file.
        num_classes: of the file; if None read from its last layer.
        prefix: of the network's names, if the file has more than this network.
        verify: before writing, compare our network in float64 with the source's own, if its library is installed.
        keep_softmax: keep the softmax at the end of a graph.
        backbone: take the residual network without its head, as the trunk of a detector. It is written with 0 classes,
            as in timm; :func:`resnet_xf.features` builds it with its maps.
        images: ``(N, C, H, W)``, an array or a ``.npy`` file, that the original network has been shown.
        expected: its outputs for these images, ``(N, classes)``, before any softmax. They settle which network it is.
        precision: of what is written: ``float32``, ``float16``, or ``bfloat16`` in a ``.pt2`` file. The last check is
            then how much the rounding changes outputs. If None, a checkpoint has the source's dtypes, and an export
            float32.

    Raises:
        WeightsError: if the source is damaged or does not fit, several networks fit, the outputs differ, or the target
            cannot be written.
        DataError: if ``images`` or ``expected`` are malformed.
        SpecError: if timm has no network with this arithmetic.
        BackendError: if a format needs a framework that is not installed, or has not this precision.
    """
    exported = export_suffix(target) is not None
    target = target if exported else _writable(target)
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise WeightsError(f"{target}: is the file to read, which would be lost; choose another name to write")
    format_ = SUFFIXES.get(Path(target).suffix, "")
    file = read_checkpoint(source, prefix, part=backbone)
    identity = identify(file, spec, num_classes, keep_softmax=keep_softmax, backbone=backbone)
    description = file.description
    if backbone and description is not None:
        description = msgspec.structs.replace(description, classes=())
    if description is not None:
        description.check(identity.plan.spec, file.path)
    if images is not None and expected is not None:
        identity = settled(identity, _array_of(images, 4), _array_of(expected, 2))
    elif images is not None or expected is not None:
        raise DataError("images and expected outputs: give both or neither")
    check_unambiguous(file, identity)
    checks = verify_identity(file, identity, format_) if verify else ()
    not_run: tuple[str, ...] = ()
    if exported:
        options: dict[str, Any] = {"description": description, "precision": precision, "verify": verify}
        ran = export(identity.plan, identity.weights, target, **options)
        not_run = () if ran or not verify else (f"{target} was written and not run; `pip install timm` lets it be run",)
        checks += ran
        layout, loads = "torchvision and timm", how_to_load(target)
    else:
        identity, rounding = _rounded(identity, precision, verify=verify)
        checks += rounding
        layout = write_checkpoint(target, identity.weights, identity.plan, description)
        loads = loads_into(identity.plan, format_)
    return Conversion(
        source=str(source),
        target=str(target),
        spec=identity.plan.spec,
        guessed=identity.guessed,
        assumed=identity.assumed,
        graph=str(identity.exported.path) if identity.exported else None,
        read_as=identity.read_as,
        written_as=layout,
        loads_into=loads,
        prefix=file.prefix + identity.prefix,
        tensors=len(identity.weights),
        checks=checks,
        notes=(*_notes(file, identity, verified=bool(checks), kept=not exported and precision is None), *not_run),
        description=description,
    )


def identify_verified(source: str | Path, spec: Spec | None = None, prefix: str | None = None) -> tuple[Identity, str]:
    """The network of a checkpoint, and half a sentence on how sure that is; the latter may be empty.

    Names and shapes do not determine a network. If an exported network is beside the file and MXNet is installed, the
    two are run and compared.

    Raises:
        WeightsError: if the source is damaged or does not fit, or the exported network computes something else.
    """
    file = read_checkpoint(source, prefix)
    identity = identify(file, spec)
    if identity.exported and is_installed("mxnet"):
        checks = verify_identity(file, identity)
        return identity, f", which gives what {checks[0].theirs} gives"
    if identity.exported:
        return identity, f", the network of the graph {identity.exported.path}"
    return identity, f"; assumed from names and shapes: {identity.assumed}" if identity.assumed else ""


def _rounded(identity: Identity, precision: str | None, *, verify: bool) -> tuple[Identity, tuple[Check, ...]]:
    """Round the weights of a checkpoint, and compare the outputs with those of the weights as they were.

    Raises:
        BackendError: if a checkpoint cannot have the precision.
    """
    if precision is None:
        return identity, ()
    if precision not in ("float32", "float16"):
        raise BackendError(f"a checkpoint is written in float32 or float16, not in {precision}; a .pt2 can be bfloat16")
    narrow = replace(identity, weights=cast_weights(identity.weights, precision))
    backend = next((name for name in ("torch", "onnx", "mxnet") if is_installed(name)), None)
    if backend is None or not verify:
        return narrow, ()
    images = sample_images(identity.plan.spec.in_channels, checked_size(identity.plan))
    output, expected = (output_of(backend, one, images) for one in (narrow, identity))
    names = f"ours on {backend} with weights in {precision}", f"ours on {backend}"
    return narrow, (Check(*names, relative_error(output, expected)),)


def _array_of(source: Array | str | Path, axes: int) -> Array:
    return source if isinstance(source, np.ndarray) else read_npy(source, axes)


def _writable(target: str | Path) -> Path:
    """Return a path whose suffix and folder allow a checkpoint to be written; raise WeightsError otherwise."""
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise WeightsError(
            f"{target}: the suffix gives the format to write; expected one of {', '.join(SUFFIXES)}, "
            ".pt2 or .onnx, or a folder for timm"
        )
    if not target.parent.is_dir():
        raise WeightsError(f"{target}: there is no folder {target.parent}")
    return target


def write_checkpoint(
    path: str | Path, weights: Weights, network: Plan | Spec | str, description: Description | None = None
) -> str:
    """Write weights, given by neutral names, in the format of the suffix; return the family whose names the file has.

    A ``.params`` file has the names of the zoo's Gluon network with the same arithmetic, so that it loads there; if
    there is none, the names of this project's own Gluon networks.

    The network and the description are written into a safetensors file, and beside any other one.

    Raises:
        WeightsError: if the suffix is of no known format, or the file cannot be written.
    """
    path, planned, described = _writable(path), plan(network), description or Description()
    in_file = SUFFIXES[path.suffix] == "safetensors"
    described.check(planned.spec, path)
    check_weights(weights, all_weight_shapes(planned))
    described = msgspec.structs.replace(described, spec=None if in_file else planned.spec)
    check_beside(path)
    texts = {DESCRIPTION_KEY: described.to_complete_json()} if in_file and description else {}
    family = _write(path, weights, planned, texts)
    try:
        write_beside(path, Description() if in_file else described)
    except OSError as error:
        raise WeightsError(f"{path_beside(path)}: cannot be written: {error.strerror}") from None
    return family


def _write(path: Path, weights: Weights, planned: Plan, texts: dict[str, str]) -> str:
    """Write the weights without what lies beside them; return the family of the names."""
    match SUFFIXES[path.suffix]:
        case "safetensors":
            save_weights(path, weights, planned.spec, texts)
            return "torchvision and timm"
        case "pth":
            norms = [name for name, node in walk(planned.root) if isinstance(node, Norm)]
            require(get_backend("torch"), OwnsFiles).write_file(path, weights, norms)
            return "torchvision and timm"
        case "params":
            layout, _ = gluon_layout(planned)
            write_params(path, _theirs(planned, layout, weights))
            return layout.title


def _theirs(planned: Plan, layout: Layout, weights: Weights) -> Weights:
    """Arrays by the family's structural names, including those that it has and we do not."""
    dtype = next(iter(weights.values())).dtype
    return {
        place.theirs: weights[place.ours].reshape(place.shape)  # a gate may be dense
        if place.fixed is None
        else np.full(place.shape, place.fixed, dtype)
        for place in places(planned, layout) or ()
    }


def _notes(file: CheckpointFile, identity: Identity, *, verified: bool, kept: bool) -> tuple[str, ...]:
    """The remarks of a conversion. ``kept`` says that arrays were written in the dtypes of the source."""
    spec = identity.plan.spec
    notes = [*file.notes, *identity.notes]
    if file.spec is not None and file.spec.name != spec.name:
        notes.append(f"the file itself says that it is {file.spec.name}")
    if not verified:
        notes.append("not verified: no framework ran it")
    if file.format == "params" and (elsewhere := graph_elsewhere(file.path)):
        notes.append(elsewhere)
    description = file.description or Description()
    unknown = {"preprocessing": description.preprocessing is None, "class names": not description.classes}
    if any(unknown.values()):
        notes.append(
            f"{UNKNOWN} the {' and the '.join(what for what, missing in unknown.items() if missing)}; "
            "`evaluate` and `predict` take --image-size, --mean, --std and --classes"
        )
    if not description.trained:
        notes.append(UNTRAINED)
    dtypes = sorted({str(array.dtype) for array in identity.weights.values()})
    if kept and dtypes != ["float32"]:
        notes.append(f"dtype {', '.join(dtypes)}, as in the source")
    return tuple(notes)
