"""Identifying the network in a checkpoint file: its spec, and the layout of its names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes
from resnet_xf.architecture.zoo import REFERENCE, ZOO
from resnet_xf.errors import ShapeError, SpecError, WeightsError
from resnet_xf.formats.assume import EPS, MOST_GROWTH, assumption, could_be_dilated, growth_by_eps, hinted
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.gluon_symbol import Symbol
from resnet_xf.formats.graph import read_graph
from resnet_xf.formats.layouts import LAYOUTS, Layout, Place, Words, places
from resnet_xf.formats.recognise import named_plan

FIRST = ("conv1.weight", "conv1.0.weight")
"""Our names of the first convolution."""

MAX_COUNT = 1_000_000
"""The largest number of classes or channels in a spec."""


GRAPHS_ONLY = ("symbol", "insightface")
"""Whose networks are told from their graphs alone: no layout has the names of their arrays."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported graph for MXNet.

    Attributes:
        path: the file.
        graph: as MXNet reads it.
        tensors: the arrays by the graph's names.
        channels_last: whether it takes images ``(N, H, W, C)``.
    """

    path: Path
    graph: bytes
    tensors: Weights
    channels_last: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """The network in a checkpoint file.

    Attributes:
        plan: the network, with the file's number of classes and input channels.
        read_as: the family whose names the file has.
        words: ``torch`` or ``gluon``, as that family calls its arrays.
        prefix: the network's own prefix on the counted names of ``export``; else empty.
        weights: the arrays by neutral name.
        exported: the graph beside the file; None if there is none.
        guessed: whether the spec is assumed, from names and shapes.
        others: what else has these names and shapes and computes something else; only if ``guessed``.
        notes: remarks on the graph.
    """

    plan: Plan
    read_as: str
    words: Words
    prefix: str
    weights: Weights
    exported: Exported | None = None
    guessed: bool = False
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def assumed(self) -> str:
        """What is assumed of the network, and what else has its names and shapes; empty if nothing is assumed."""
        also = f"; {', '.join(self.others)} have the same names and shapes" if self.others else ""
        return assumption(self.plan.spec) + also if self.guessed else ""


@dataclass(frozen=True, slots=True)
class _Match:
    """A candidate network compared with a file. It fits if ``wrong``, the number of complaints, is 0."""

    plan: Plan
    layout: Layout
    counted: bool
    prefix: str
    places: tuple[Place, ...]
    wrong: int


def identify(
    file: CheckpointFile, spec: Spec | None = None, num_classes: int | None = None, *, keep_softmax: bool = False
) -> Identity:
    """Identify the network of a file: by the graph beside it, else by the given spec, the file's, or all of the zoo.

    Args:
        file: the checkpoint.
        spec: the network that it must be.
        num_classes: of the file; if None as its last layer has.
        keep_softmax: keep the softmax at the end of a graph.

    Raises:
        WeightsError: if no candidate fits. The message lists the tensors that are missing, left over or of the wrong
            shape for the nearest candidate. Or if the graph has a part that no plan has, or is not the given spec's.
    """
    if file.symbol is None:
        match, others = _by_names(file, spec or file.spec, num_classes)
        return _identity(file, match, others, guessed=not (spec or file.spec))
    if any(name in file.tensors for name in file.symbol.variables):
        return _from_graph(file, file.symbol, file.tensors, spec, keep_softmax=keep_softmax)
    match, _ = _by_names(file, spec, num_classes)  # save_parameters() wrote the file, and export() the graph
    counted = places(match.plan, match.layout, counted=True) or []
    in_symbol, _ = _with_prefixes(file.symbol.variables, counted, match.layout)
    tensors = {ours.theirs: file.tensors[place.theirs] for ours, place in zip(in_symbol, match.places, strict=True)}
    return _from_graph(file, file.symbol, tensors, match.plan.spec, keep_softmax=keep_softmax)


def check_unambiguous(file: CheckpointFile, identity: Identity) -> None:
    """Raise WeightsError if a network is assumed, and others of the same names and shapes compute something else."""
    if identity.others:
        name = identity.plan.spec.name
        raise WeightsError(
            f"{file.path}: could be {assumption(identity.plan.spec)}; but {', '.join(identity.others)} have the same "
            f"names and shapes, and other outputs. Copy the export's -symbol.json beside it, name the network (--spec "
            f"{name}), or give outputs that you have (convert --images images.npy --expect outputs.npy)"
        )


def _by_names(file: CheckpointFile, target: Spec | None, num_classes: int | None) -> tuple[_Match, tuple[str, ...]]:
    """The network whose names and shapes a file has, and what else has the same."""
    best: _Match | None = None
    fits: list[_Match] = []
    for candidate in [target] if target else (spec for name, spec in ZOO.items() if REFERENCE[name] not in GRAPHS_ONLY):
        for match in _matches(file, candidate, num_classes):
            if not match.wrong:
                fits.append(match)
                break
            if best is None or match.wrong < best.wrong:
                best = match
    if fits:
        hints = hinted([match.plan.spec.name for match in fits], fits[0].prefix)
        fits = [match for match in fits if match.plan.spec.name in hints]
        chosen = next((match for match in fits if match.layout.is_own(match.plan.spec.name)), fits[0])
        root = arithmetic(chosen.plan.spec).root
        others = [one.plan.spec.name for one in fits if arithmetic(one.plan.spec).root != root]
        if could_be_dilated(chosen.plan, chosen.layout):
            others.append("networks with dilation in place of stride")
        return chosen, tuple(others)
    if best is None:
        names = ", ".join(list(file.tensors)[:3])
        raise WeightsError(f"{file.path}: the names ({names}, …) follow no known layout; are these a ResNet's weights?")
    nearest = best.plan.spec.name if target else f"{best.plan.spec.name}, the nearest in the zoo (--spec names another)"
    listed = "; ".join(islice(_complaints(file.tensors, best.places), 8))
    more = f"; and {best.wrong - 8} more" if best.wrong > 8 else ""
    raise WeightsError(f"{file.path}: does not hold the weights of {nearest}: {listed}{more}")


def twins(planned: Plan) -> list[str]:
    """Names of zoo specs of other arithmetic with the same array names and shapes: no file distinguishes them."""
    if not isinstance(planned.spec, ResNetSpec):
        return []
    shapes, root = all_weight_shapes(planned), arithmetic(planned.spec).root
    candidates = [_sized(spec, planned.spec.num_classes, planned.spec.in_channels) for spec in ZOO.values()]
    return [spec.name for spec in candidates if all_weight_shapes(spec) == shapes and arithmetic(spec).root != root]


def arithmetic(spec: Spec) -> Plan:
    """The plan of the spec with default settings and initial values of the norms, on which no file's names depend.

    An explicit spec's is returned as it is.
    """
    if not isinstance(spec, ResNetSpec):
        return plan(spec)
    default = ResNetSpec(name=spec.name, stages=spec.stages)
    defaults = {name: getattr(default, name) for name in ("norm_eps", "norm_momentum", "zero_init_last")}
    return plan(msgspec.structs.replace(spec, **defaults))


def _sized(spec: Spec, num_classes: int, in_channels: int) -> Spec:
    """The spec with other sizes; an explicit one as it is, because its layers have them."""
    if not isinstance(spec, ResNetSpec):
        return spec
    return msgspec.structs.replace(spec, num_classes=num_classes, in_channels=in_channels)


def _matches(file: CheckpointFile, spec: Spec, num_classes: int | None) -> Iterator[_Match]:
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


def _identity(file: CheckpointFile, match: _Match, others: tuple[str, ...], *, guessed: bool) -> Identity:
    """The identity of a match: the arrays by neutral name."""
    weights: Weights = {}
    for place in match.places:
        array = file.tensors[place.theirs]
        _check_values(file, place.theirs, array, is_variance=place.ours.endswith("running_var"))
        if place.fixed is None:
            weights[place.ours] = array
        elif place.fixed == 0 and array.any():  # MXNet adds this shift, though it is not trained
            raise WeightsError(f"{file.path}: {place.theirs} is not 0, and {match.plan.spec.name} has no shift there")
    layout = match.layout
    if guessed and (growth := growth_by_eps(weights)) > MOST_GROWTH:
        usual = " or ".join(f"{eps:g}" for eps in EPS[1:])
        others += (f"networks with an eps of {usual}, whose outputs are up to {growth:.1f} times smaller",)
    own = others if guessed else ()
    return Identity(match.plan, layout.title, layout.words, match.prefix, weights, guessed=guessed, others=own)


def _from_graph(
    file: CheckpointFile, symbol: Symbol, tensors: Weights, spec: Spec | None, *, keep_softmax: bool
) -> Identity:
    """The network that the graph beside a file describes.

    Raises:
        WeightsError: if no plan has a part of the graph, the arrays do not fit it, or ``spec`` is another network.
    """
    try:
        graph = read_graph(symbol.nodes, symbol.head, tensors, keep_softmax=keep_softmax)
        zeros = {name for name, array in tensors.items() if array.ndim == 1 and not array.any()}
        planned, names = named_plan(graph.steps, symbol.title, zeros, spec)
    except (WeightsError, SpecError, ShapeError) as error:
        raise WeightsError(f"{symbol.path}: {error}") from None
    shapes = all_weight_shapes(planned)
    weights = {}
    for ours, shape in shapes.items():
        array = tensors[names[ours]]
        _check_values(file, names[ours], array, is_variance=ours.endswith("running_var"))
        if array.size != prod(shape):  # one value for each group of channels
            array = np.repeat(array, prod(shape) // array.size)
        weights[ours] = array.reshape(shape)
    notes = list(graph.notes)
    in_graph = set(symbol.variables)
    if left := [name for name in tensors if name not in in_graph]:
        notes.append(f"{len(left)} arrays are not in the graph, and are left out: {', '.join(left[:3])}")
    exported = Exported(symbol.path, symbol.for_mxnet(graph.head), tensors, graph.channels_last)
    return Identity(planned, f"the graph {symbol.path.name}", "gluon", "", weights, exported, notes=tuple(notes))


def _check_values(file: CheckpointFile, name: str, array: Array, *, is_variance: bool) -> None:
    """Raise WeightsError for values that no network can have."""
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{file.path}: {name} holds {array.dtype} values, expected floating point")
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise WeightsError(f"{file.path}: {name} holds {count} values that are NaN or infinite")
    if is_variance and (array < 0).any():
        raise WeightsError(f"{file.path}: {name} holds negative values, and a variance has none")
