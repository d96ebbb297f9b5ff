"""A checkpoint in at one framework and out at the other, and the proof that it is the same network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.measures import FLOAT64_BOUND, relative_error
from resnet_xf.architecture.nodes import Norm, walk
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Array, Weights, save_weights
from resnet_xf.architecture.zoo import REFERENCE, ZOO
from resnet_xf.backend.contract import BuildsPeers, OwnsFiles, RunsExports, require
from resnet_xf.backend.registry import get_backend, is_installed
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, WeightsError
from resnet_xf.formats.files import SUFFIXES, CheckpointFile, read_checkpoint
from resnet_xf.formats.gluon_params import write_params
from resnet_xf.formats.identify import Identity, arithmetic, identify, twins
from resnet_xf.formats.layouts import GLUON, LAYOUTS, Layout, places, renamed


class Check(msgspec.Struct, frozen=True):
    """One comparison of outputs in float64: ours on a backend against what the file's own framework computes.

    ``error`` is the largest difference, as a share of the largest output.
    """

    ours: str
    theirs: str
    error: float


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion did.

    Attributes:
        source: the file read.
        target: the file written.
        spec: the network.
        guessed: whether the spec was found by names and shapes.
        read_as: the family whose names the source has.
        written_as: the family whose names the target has.
        prefix: what was taken off before every name.
        tensors: how many arrays were mapped.
        checks: comparisons that were made; none where no framework is installed.
        notes: what else a careful person should know.
    """

    source: str
    target: str
    spec: ResNetSpec
    guessed: bool
    read_as: str
    written_as: str
    prefix: str
    tensors: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()


def convert(
    source: str | Path,
    target: str | Path,
    spec: ResNetSpec | None = None,
    num_classes: int | None = None,
    *,
    verify: bool = True,
) -> Conversion:
    """Read a checkpoint, map it by name, prove that the network is the same, and write it; atomically.

    Args:
        source: safetensors, a state_dict (``.pth``, ``.pt``) or MXNet's ``.params``.
        target: the format is told by its suffix: ``.safetensors``, ``.pth``, ``.pt`` or ``.params``.
        spec: the network; if None the file's own, or else found by names and shapes.
        num_classes: of the file; if None as its last layer has them.
        verify: run the source's own network where it is installed, and ours, in float64, before writing.

    Raises:
        WeightsError: if the source is damaged or does not fit, the outputs differ, or the target cannot be written.
        BackendError: if a format needs PyTorch and it is not installed.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise WeightsError(f"{target}: the suffix tells the format to write; expected one of {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise WeightsError(f"{target}: there is no folder {target.parent}")
    file = read_checkpoint(source)
    found = identify(file, spec, num_classes)
    checks = _verified(file, found) if verify else ()
    layout = write_checkpoint(target, found.weights, found.plan)
    return Conversion(
        source=str(source),
        target=str(target),
        spec=found.plan.spec,
        guessed=found.guessed,
        read_as=found.layout.title,
        written_as=layout,
        prefix=file.prefix + found.prefix,
        tensors=len(found.weights),
        checks=checks,
        notes=_notes(file, found, target, verified=bool(checks)),
    )


def settle(source: str | Path, spec: ResNetSpec | None = None) -> tuple[Identity, str]:
    """Which network a checkpoint is, and in words how that is known.

    The exported network that lies beside it is run, where MXNet is installed: names and shapes do not tell all.

    Raises:
        WeightsError: if the source is damaged or does not fit, or the exported network computes something else.
    """
    file = read_checkpoint(source)
    found = identify(file, spec)
    if found.symbol_tensors and is_installed("mxnet"):
        checks = _verified(file, found)
        return found, f", which gives what {checks[0].theirs} gives"
    return found, f"; that it is {found.plan.spec.name} is a guess from names and shapes" if found.guessed else ""


def write_checkpoint(path: str | Path, weights: Weights, planned: Plan) -> str:
    """Write weights under neutral names in the format that the suffix tells; returns the family whose names it has.

    A ``.params`` file has the names of the Gluon network that the plan equals, so that it loads there; else those of
    this project's own Gluon networks.
    """
    path = Path(path)
    match SUFFIXES[path.suffix]:
        case "safetensors":
            save_weights(path, weights, planned.spec)
            return "torchvision and timm"
        case "pth":
            norms = [name for name, node in walk(planned.root) if isinstance(node, Norm)]
            require(get_backend("torch"), OwnsFiles).write_file(path, weights, norms)
            return "torchvision and timm"
        case "params":
            layout, _ = gluon_layout(planned)
            write_params(path, _theirs(planned, layout, weights))
            return layout.title


def gluon_layout(planned: Plan) -> tuple[Layout, str | None]:
    """The Gluon family whose network the plan equals, and that network's name there; else our own names and None."""
    families = {name: layout for layout in LAYOUTS if layout is not GLUON for name in ZOO if layout.is_own(name)}
    own = _equal(planned, families)
    return (families[own], own) if own else (GLUON, None)


def _equal(planned: Plan, names: Iterable[str]) -> str | None:
    """The first of the zoo's specs that computes what the plan does, whatever the plan's name."""
    root = arithmetic(planned.spec).root
    sizes = {"num_classes": planned.spec.num_classes, "in_channels": planned.spec.in_channels}
    return next((n for n in names if arithmetic(msgspec.structs.replace(ZOO[n], **sizes)).root == root), None)


def _theirs(planned: Plan, layout: Layout, weights: Weights) -> Weights:
    """Arrays by the family's structural names, with those that it holds and we do not."""
    dtype = next(iter(weights.values())).dtype
    return {
        place.theirs: weights[place.ours] if place.fixed is None else np.full(place.shape, place.fixed, dtype)
        for place in places(planned, layout) or ()
    }


def _verified(file: CheckpointFile, found: Identity) -> tuple[Check, ...]:
    """The comparisons of :func:`_verify`; raises WeightsError if one does not hold."""
    checks = _verify(file, found)
    for check in checks:
        if not check.error <= FLOAT64_BOUND:
            raise WeightsError(
                f"{file.path}: {check.ours} and {check.theirs} differ by {check.error:.1e} of the largest output, "
                f"where {FLOAT64_BOUND:g} is allowed; is {found.plan.spec.name} the right spec?"
            )
    return checks


def _verify(file: CheckpointFile, found: Identity) -> tuple[Check, ...]:
    """Ours on every installed backend, against the source's own network or else against each other."""
    backends = [get_backend(name) for name in ("torch", "mxnet") if is_installed(name)]
    spec = found.plan.spec
    images = sample_images(spec.in_channels, spec.image_size)
    outputs = {}
    for backend in backends:
        network = backend.build(found.plan.root, "float64")
        backend.load(network, found.weights)
        outputs[f"ours on {backend.name}"] = backend.forward(network, images)
    if (reference := _reference(file, found, images)) is None:
        if len(outputs) < 2:
            return ()
        (ours, output), (other, wanted) = outputs.items()
        return (Check(ours, other, relative_error(output, wanted)),)
    theirs, wanted = reference
    return tuple(Check(ours, theirs, relative_error(output, wanted)) for ours, output in outputs.items())


def _reference(file: CheckpointFile, found: Identity, images: Array) -> tuple[str, Array] | None:
    """The name and the float64 output of the source's own network; None where no backend can run it."""
    name = "torch" if found.layout.words == "torch" else "mxnet"
    if not is_installed(name):
        return None
    backend = get_backend(name)
    if found.symbol_tensors and file.symbol:
        output = require(backend, RunsExports).run_exported(file.symbol, found.symbol_tensors, images)
        return f"the exported network {file.symbol}", output
    if found.plan.root != arithmetic(found.plan.spec).root:
        return None  # other libraries' networks have the usual eps alone
    if name == "mxnet":
        layout, model = gluon_layout(found.plan)
        weights = renamed(layout, found.weights)
    else:
        model = _equal(found.plan, [n for n, source in REFERENCE.items() if source in ("torchvision", "timm")])
        weights = file.tensors
    if model is None:
        return None
    try:
        spec = found.plan.spec
        network = require(backend, BuildsPeers).peer(REFERENCE[model], model, spec.num_classes, spec.in_channels)
        network = backend.copy(network, "float64")
        backend.load(network, weights)
    except (BackendError, WeightsError):  # no library has it with these names and shapes
        return None
    return f"{REFERENCE[model]}'s own {model}", backend.forward(network, images)


def _notes(file: CheckpointFile, found: Identity, target: Path, *, verified: bool) -> tuple[str, ...]:
    spec, alike = found.plan.spec, ", ".join(twins(found.plan))
    notes = list(file.notes)
    if found.guessed:
        also = f", {alike} among them" if alike else ""
        notes.append(
            f"{spec.name} is a guess: names and shapes are also those of networks that differ in strides, dilation, "
            f"pooling or activation alone{also}; --spec names another"
        )
    if file.spec is not None and file.spec.name != spec.name:
        notes.append(f"the file itself says that it is {file.spec.name}")
    if not verified:
        notes.append("not verified: no framework ran it")
    dtypes = sorted({str(array.dtype) for array in found.weights.values()})
    if dtypes != ["float32"]:
        notes.append(f"dtype {', '.join(dtypes)}, as in the source")
    if target.suffix != ".safetensors":
        if alike and not found.guessed:
            notes.append(f"{target.suffix} cannot say that this is {spec.name} and not {alike}; build it from the spec")
        if found.plan.root != arithmetic(spec).root:
            notes.append(
                f"{target.suffix} cannot carry the norms' eps {spec.norm_eps:g} and momentum {spec.norm_momentum:g}; "
                "build it from the spec"
            )
    return tuple(notes)
