"""Which network a file's tensors are: its spec, and the layout that its names follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes
from resnet_xf.architecture.zoo import ZOO
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.gluon_symbol import NormAttributes
from resnet_xf.formats.layouts import LAYOUTS, Layout, Place, places

FIRST = ("conv1.weight", "conv1.0.weight")
"""Our names for a network's first convolution."""

MOST = 1_000_000
"""Classes or channels that a spec may have."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file's tensors were found to be.

    Attributes:
        plan: the network, with the file's own number of classes and input channels.
        layout: the family whose names the file follows.
        counted: whether they are the names that ``export`` makes up.
        prefix: the network's own prefix on such names.
        weights: the arrays by neutral name.
        symbol_tensors: the arrays by the names in the symbol that lies beside the file, if one does.
        guessed: whether the spec was found by names and shapes, and not given.
    """

    plan: Plan
    layout: Layout
    counted: bool
    prefix: str
    weights: Weights
    symbol_tensors: Weights = field(default_factory=dict)
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    """A candidate held against a file."""

    plan: Plan
    layout: Layout
    counted: bool
    prefix: str
    places: tuple[Place, ...]
    complaints: tuple[str, ...]


def identify(file: CheckpointFile, spec: ResNetSpec | None = None, num_classes: int | None = None) -> Identity:
    """Find the network that the file's tensors are, trying the given spec, the file's own, or the whole zoo.

    Raises:
        WeightsError: if no candidate fits; the message lists what is missing, left over or of the wrong shape in
            the nearest one.
    """
    known = spec or file.spec
    best: _Match | None = None
    fits: list[_Match] = []
    for candidate in [known] if known else ZOO.values():
        for match in _matches(file, candidate, num_classes):
            if not match.complaints:
                fits.append(match)
                break
            if best is None or len(match.complaints) < len(best.complaints):
                best = match
    if fits:
        chosen = next((match for match in fits if match.layout.is_own(match.plan.spec.name)), fits[0])
        return _identity(file, chosen, guessed=known is None)
    if best is None:
        names = ", ".join(list(file.tensors)[:3])
        raise WeightsError(f"{file.path}: the names ({names}, …) follow no known layout; are these a ResNet's weights?")
    nearest = best.plan.spec.name if known else f"{best.plan.spec.name}, the nearest in the zoo (--spec names another)"
    listed = "; ".join(best.complaints[:8])
    more = f"; and {len(best.complaints) - 8} more" if len(best.complaints) > 8 else ""
    raise WeightsError(f"{file.path}: does not hold the weights of {nearest}: {listed}{more}")


def twins(planned: Plan) -> list[str]:
    """Zoo specs of other arithmetic whose arrays have these very names and shapes, so that no file tells them apart."""
    shapes, root = all_weight_shapes(planned), arithmetic(planned.spec).root
    like = [_sized(spec, planned.spec.num_classes, planned.spec.in_channels) for spec in ZOO.values()]
    return [spec.name for spec in like if all_weight_shapes(spec) == shapes and arithmetic(spec).root != root]


def arithmetic(spec: ResNetSpec) -> Plan:
    """The spec's plan less what a file's format and layout cannot depend on: its norms' settings and first values."""
    default = ResNetSpec(name=spec.name, stages=spec.stages)
    kept = {name: getattr(default, name) for name in ("norm_eps", "norm_momentum", "zero_init_last")}
    return plan(msgspec.structs.replace(spec, **kept))


def _sized(spec: ResNetSpec, num_classes: int, in_channels: int) -> ResNetSpec:
    return msgspec.structs.replace(spec, num_classes=num_classes, in_channels=in_channels)


def _matches(file: CheckpointFile, spec: ResNetSpec, num_classes: int | None) -> Iterator[_Match]:
    """The spec under every layout that has its first convolution or its head in the file."""
    planned = plan(spec)
    for layout in LAYOUTS:
        for counted in (False, True) if layout.words == "gluon" else (False,):
            if not counted and layout.outer is None and layout.scopes is not None:
                continue  # a family whose structural names are another's
            found = places(planned, layout, counted=counted)
            if found is None:
                continue
            named, prefix = _as_in(list(file.tensors), found, layout) if counted else (found, "")
            by_ours = {place.ours: file.tensors.get(place.theirs) for place in named}
            head = by_ours["fc.weight"]
            first = next((by_ours[name] for name in FIRST if by_ours.get(name) is not None), None)
            if head is None and first is None:
                continue
            classes = head.shape[0] if head is not None and head.ndim == 2 else spec.num_classes
            channels = first.shape[1] if first is not None and first.ndim == 4 else spec.in_channels
            sizes = (num_classes or classes, channels)
            if not all(1 <= size <= MOST for size in sizes):
                sizes = (spec.num_classes, spec.in_channels)
            fitted = plan(_sized(spec, *sizes))
            shapes = {place.ours: place.shape for place in places(fitted, layout, counted=counted) or ()}
            wanted = tuple(replace(place, shape=shapes[place.ours]) for place in named)
            yield _Match(fitted, layout, counted, prefix, wanted, tuple(_complaints(file.tensors, wanted)))


def _as_in(names: list[str], found: list[Place], layout: Layout) -> tuple[list[Place], str]:
    """Places with the prefixes that made-up names have in a file, as ``resnetv10_``, and that of the body.

    A fine-tuned network often has a head of its own, so that its body and its head come from two counters: the
    first convolution tells the one's prefix, the only dense layer the other's.
    """
    first = next(place.theirs for place in found if place.ours in FIRST)
    begins = [name.removesuffix(first) for name in names if name.endswith(first) and "stage" not in name]
    prefix = min(begins, key=len, default="")
    heads = [name.removesuffix("_weight") for name in names if re.search(r"dense\d+_weight$", name)]
    head = heads[0] if len(heads) == 1 and layout.scopes is not None else None
    return [
        replace(place, theirs=f"{head}_{place.ours.removeprefix('fc.')}")
        if head and place.ours.startswith("fc.")
        else replace(place, theirs=prefix + place.theirs)
        for place in found
    ], prefix


def _complaints(tensors: Weights, wanted: tuple[Place, ...]) -> Iterator[str]:
    """What keeps the tensors from being exactly the wanted ones, a line each."""
    shapes = {place.theirs: place.shape for place in wanted}
    for name, shape in shapes.items():
        if name not in tensors:
            yield f"missing {name}"
        elif tensors[name].shape != shape:
            yield f"{name} has shape {tensors[name].shape}, expected {shape}"
    for name in tensors:
        if name not in shapes:
            yield f"left over {name}"


def _identity(file: CheckpointFile, match: _Match, *, guessed: bool) -> Identity:
    """The match with its arrays under neutral names, what a symbol beside says of its norms taken in."""
    weights: Weights = {}
    symbol_names = _symbol_names(file, match) if file.symbol else {}
    told: list[NormAttributes] = []
    for place in match.places:
        array = file.tensors[place.theirs]
        _check_numbers(file, place, array)
        attributes = file.norms.get(symbol_names.get(place.ours, ""))
        if attributes:
            told.append(attributes)
        if place.fixed is None:
            weights[place.ours] = np.ones_like(array) if attributes and attributes.fix_gamma else array
        elif place.fixed == 0 and array.any():  # MXNet adds such a shift, though nothing trains it
            raise WeightsError(f"{file.path}: {place.theirs} is not 0, and {match.plan.spec.name} has no shift there")
        elif place.fixed == 1 and attributes and not attributes.fix_gamma and (array != 1).any():
            raise WeightsError(f"{file.path}: {place.theirs} is not 1, and {match.plan.spec.name} has no scale there")
    fitted = _with_norms(file, match.plan, told)
    in_symbol = {symbol_names[p.ours]: file.tensors[p.theirs] for p in match.places} if symbol_names else {}
    return Identity(fitted, match.layout, match.counted, match.prefix, weights, in_symbol, guessed)


def _check_numbers(file: CheckpointFile, place: Place, array: Array) -> None:
    """Refuse what no sound network holds."""
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{file.path}: {place.theirs} holds {array.dtype} numbers, expected floating point")
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise WeightsError(f"{file.path}: {place.theirs} holds {count} numbers that are NaN or infinite")
    if place.ours.endswith("running_var") and (array < 0).any():
        raise WeightsError(f"{file.path}: {place.theirs} holds negative numbers, and a variance has none")


def _symbol_names(file: CheckpointFile, match: _Match) -> dict[str, str]:
    """What the symbol beside a file calls our arrays.

    Raises:
        WeightsError: if its norms are not this network's: a symbol of another would say wrong things of this one.
    """
    named = list(match.places)
    if not match.counted:
        made_up = places(match.plan, match.layout, counted=True) or []
        named, _ = _as_in(list(file.symbol_names), made_up, match.layout)
    names = {place.ours: place.theirs for place in named}
    gammas = {name for name in names.values() if name.endswith("gamma")}
    if gammas != set(file.norms):
        odd = sorted(gammas ^ set(file.norms))
        raise WeightsError(
            f"{file.symbol}: its norms are not those of {file.path.name} ({', '.join(odd[:3])}, …); "
            "move it away if it belongs to another network"
        )
    return names


def _with_norms(file: CheckpointFile, planned: Plan, told: list[NormAttributes]) -> Plan:
    """The plan with the eps and momentum that the symbol beside the file gives all norms alike."""
    if not told:
        return planned
    if len({(one.eps, one.momentum) for one in told}) > 1:
        values = ", ".join(sorted({f"{one.eps:g}" for one in told}))
        raise WeightsError(f"{file.symbol}: gives its norms different eps or momentum ({values}), and a spec has one")
    settings = {"norm_eps": told[0].eps, "norm_momentum": round(1 - told[0].momentum, 12)}
    try:
        return plan(msgspec.structs.replace(planned.spec, **settings))
    except SpecError as error:
        raise WeightsError(f"{file.symbol}: {error}") from None
