"""Identifying the network in a checkpoint file: its spec, and the layout of its names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

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
"""Our names of the first convolution."""

MAX_COUNT = 1_000_000
"""The largest number of classes or channels in a spec."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The network in a checkpoint file.

    Attributes:
        plan: the network, with the file's number of classes and input channels.
        layout: the family whose names the file has.
        prefix: the network's own prefix on the counted names of ``export``; else empty.
        weights: the arrays by neutral name.
        symbol_tensors: the arrays by the names in the symbol beside the file; empty if there is none.
        guessed: whether the spec is a guess from names and shapes.
    """

    plan: Plan
    layout: Layout
    prefix: str
    weights: Weights
    symbol_tensors: Weights = field(default_factory=dict)
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    """A candidate network compared with a file. It fits if ``wrong``, the number of complaints, is 0."""

    plan: Plan
    layout: Layout
    counted: bool
    prefix: str
    places: tuple[Place, ...]
    wrong: int


def identify(file: CheckpointFile, spec: ResNetSpec | None = None, num_classes: int | None = None) -> Identity:
    """Identify the network of a file: try the given spec, or else the spec in the file, or else all of the zoo.

    Raises:
        WeightsError: if no candidate fits. The message lists the tensors that are missing, left over or of the wrong
            shape for the nearest candidate.
    """
    target = spec or file.spec
    best: _Match | None = None
    fits: list[_Match] = []
    for candidate in [target] if target else ZOO.values():
        for match in _matches(file, candidate, num_classes):
            if not match.wrong:
                fits.append(match)
                break
            if best is None or match.wrong < best.wrong:
                best = match
    if fits:
        chosen = next((match for match in fits if match.layout.is_own(match.plan.spec.name)), fits[0])
        return _identity(file, chosen, guessed=target is None)
    if best is None:
        names = ", ".join(list(file.tensors)[:3])
        raise WeightsError(f"{file.path}: the names ({names}, …) follow no known layout; are these a ResNet's weights?")
    nearest = best.plan.spec.name if target else f"{best.plan.spec.name}, the nearest in the zoo (--spec names another)"
    listed = "; ".join(islice(_complaints(file.tensors, best.places), 8))
    more = f"; and {best.wrong - 8} more" if best.wrong > 8 else ""
    raise WeightsError(f"{file.path}: does not hold the weights of {nearest}: {listed}{more}")


def twins(planned: Plan) -> list[str]:
    """Names of zoo specs of other arithmetic with the same array names and shapes: no file distinguishes them."""
    shapes, root = all_weight_shapes(planned), arithmetic(planned.spec).root
    candidates = [_sized(spec, planned.spec.num_classes, planned.spec.in_channels) for spec in ZOO.values()]
    return [spec.name for spec in candidates if all_weight_shapes(spec) == shapes and arithmetic(spec).root != root]


def arithmetic(spec: ResNetSpec) -> Plan:
    """The plan of the spec with default settings and initial values of the norms, on which no file's names depend."""
    default = ResNetSpec(name=spec.name, stages=spec.stages)
    defaults = {name: getattr(default, name) for name in ("norm_eps", "norm_momentum", "zero_init_last")}
    return plan(msgspec.structs.replace(spec, **defaults))


def _sized(spec: ResNetSpec, num_classes: int, in_channels: int) -> ResNetSpec:
    return msgspec.structs.replace(spec, num_classes=num_classes, in_channels=in_channels)


def _matches(file: CheckpointFile, spec: ResNetSpec, num_classes: int | None) -> Iterator[_Match]:
    """The spec in every layout whose name of its first convolution or of its head is in the file."""
    planned = plan(spec)
    for layout in LAYOUTS:
        for counted in (False, True) if layout.words == "gluon" else (False,):
            if not counted and layout.outer is None and layout.scopes is not None:
                continue  # another family has the same structural names
            expected = places(planned, layout, counted=counted)
            if expected is None:
                continue
            prefix = ""
            if counted:
                expected, prefix = _with_prefixes(tuple(file.tensors), expected, layout)
            by_ours = {place.ours: file.tensors.get(place.theirs) for place in expected}
            head = by_ours["fc.weight"]
            first = next((by_ours[name] for name in FIRST if by_ours.get(name) is not None), None)
            if head is None and first is None:
                continue
            classes = head.shape[0] if head is not None and head.ndim == 2 else spec.num_classes
            channels = first.shape[1] if first is not None and first.ndim == 4 else spec.in_channels
            sizes = (num_classes or classes, channels)
            if not all(1 <= size <= MAX_COUNT for size in sizes):
                sizes = (spec.num_classes, spec.in_channels)
            fitted = plan(_sized(spec, *sizes))
            shapes = {place.ours: place.shape for place in places(fitted, layout, counted=counted) or ()}
            sized = tuple(replace(place, shape=shapes[place.ours]) for place in expected)
            yield _Match(fitted, layout, counted, prefix, sized, _count_wrong(file.tensors, sized))


def _with_prefixes(names: tuple[str, ...], expected: list[Place], layout: Layout) -> tuple[list[Place], str]:
    """Places with the prefixes of counted names in a file, as ``resnetv10_``; and the prefix of the body.

    A fine-tuned network often has a new head, with a prefix of its own. The first convolution's name gives the prefix
    of the body, and the name of the only dense layer gives the prefix of the head.
    """
    prefix = _shortest_prefix(names, next(place.theirs for place in expected if place.ours in FIRST))
    heads = _dense(names)
    head = heads[0] if len(heads) == 1 and layout.scopes is not None else None
    return [
        replace(place, theirs=f"{head}_{place.ours.removeprefix('fc.')}")
        if head and place.ours.startswith("fc.")
        else replace(place, theirs=prefix + place.theirs)
        for place in expected
    ], prefix


@lru_cache(maxsize=16)
def _shortest_prefix(names: tuple[str, ...], first: str) -> str:
    prefixes = [name.removesuffix(first) for name in names if name.endswith(first) and "stage" not in name]
    return min(prefixes, key=len, default="")


@lru_cache(maxsize=4)
def _dense(names: tuple[str, ...]) -> list[str]:
    """The prefixes of dense layers' weights."""
    return [name.removesuffix("_weight") for name in names if re.search(r"dense\d+_weight$", name)]


def _count_wrong(tensors: Weights, expected: tuple[Place, ...]) -> int:
    """How many tensors are missing, left over or of the wrong shape."""
    shapes = {place.theirs: place.shape for place in expected}
    right = sum(name in tensors and tensors[name].shape == shape for name, shape in shapes.items())
    left_over = len(tensors) - sum(name in tensors for name in shapes)
    return len(shapes) - right + left_over


def _complaints(tensors: Weights, expected: tuple[Place, ...]) -> Iterator[str]:
    """A phrase for each tensor that is missing, left over or of the wrong shape."""
    shapes = {place.theirs: place.shape for place in expected}
    for name, shape in shapes.items():
        if name not in tensors:
            yield f"missing {name}"
        elif tensors[name].shape != shape:
            yield f"{name} has shape {tensors[name].shape}, expected {shape}"
    for name in tensors:
        if name not in shapes:
            yield f"left over {name}"


def _identity(file: CheckpointFile, match: _Match, *, guessed: bool) -> Identity:
    """The identity of a match: arrays by neutral name, and the settings of norms from the symbol beside the file."""
    weights: Weights = {}
    symbol_names = _symbol_names(file, match) if file.symbol else {}
    norms: list[NormAttributes] = []
    for place in match.places:
        array = file.tensors[place.theirs]
        _check_values(file, place, array)
        attributes = file.norms.get(symbol_names.get(place.ours, ""))
        if attributes:
            norms.append(attributes)
        if place.fixed is None:
            weights[place.ours] = np.ones_like(array) if attributes and attributes.fix_gamma else array
        elif place.fixed == 0 and array.any():  # MXNet adds this shift, though it is not trained
            raise WeightsError(f"{file.path}: {place.theirs} is not 0, and {match.plan.spec.name} has no shift there")
        elif place.fixed == 1 and attributes and not attributes.fix_gamma and (array != 1).any():
            raise WeightsError(f"{file.path}: {place.theirs} is not 1, and {match.plan.spec.name} has no scale there")
    fitted = _with_norms(file, match.plan, norms)
    in_symbol = {symbol_names[p.ours]: file.tensors[p.theirs] for p in match.places} if symbol_names else {}
    return Identity(fitted, match.layout, match.prefix, weights, in_symbol, guessed)


def _check_values(file: CheckpointFile, place: Place, array: Array) -> None:
    """Raise WeightsError for values that no network can have."""
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{file.path}: {place.theirs} holds {array.dtype} values, expected floating point")
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise WeightsError(f"{file.path}: {place.theirs} holds {count} values that are NaN or infinite")
    if place.ours.endswith("running_var") and (array < 0).any():
        raise WeightsError(f"{file.path}: {place.theirs} holds negative values, and a variance has none")


def _symbol_names(file: CheckpointFile, match: _Match) -> dict[str, str]:
    """The names of our arrays in the symbol beside a file.

    Raises:
        WeightsError: if the symbol has other norms than this network.
    """
    in_symbol = list(match.places)
    if not match.counted:
        counted = places(match.plan, match.layout, counted=True) or []
        in_symbol, _ = _with_prefixes(file.symbol_names, counted, match.layout)
    names = {place.ours: place.theirs for place in in_symbol}
    gammas = {name for name in names.values() if name.endswith("gamma")}
    if gammas != set(file.norms):
        odd = sorted(gammas ^ set(file.norms))
        raise WeightsError(
            f"{file.symbol}: its norms are not those of {file.path.name} ({', '.join(odd[:3])}, …); "
            "move it away if it belongs to another network"
        )
    return names


def _with_norms(file: CheckpointFile, planned: Plan, norms: list[NormAttributes]) -> Plan:
    """The plan with the eps and momentum of all norms in the symbol beside the file."""
    if not norms:
        return planned
    if len({(one.eps, one.momentum) for one in norms}) > 1:
        values = ", ".join(sorted({f"{one.eps:g}" for one in norms}))
        raise WeightsError(f"{file.symbol}: gives its norms different eps or momentum ({values}), and a spec has one")
    settings = {"norm_eps": norms[0].eps, "norm_momentum": round(1 - norms[0].momentum, 12)}
    try:
        return plan(msgspec.structs.replace(planned.spec, **settings))
    except SpecError as error:
        raise WeightsError(f"{file.symbol}: {error}") from None
