"""Identifying the network in a checkpoint file: its spec, and the layout of its names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.nodes import GroupNorm, walk
from resnet_xf.architecture.plan import Plan, headless, plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes
from resnet_xf.architecture.zoo import ZOO, relatives, with_output_stride
from resnet_xf.errors import ShapeError, SpecError, WeightsError
from resnet_xf.formats.assume import (
    DILATED,
    EPS,
    MOST_GROWTH,
    assumption,
    could_be_dilated,
    growth_by_eps,
    hinted,
    is_dilated,
    output_stride,
)
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.gluon_symbol import Symbol
from resnet_xf.formats.graph import Graph, read_graph
from resnet_xf.formats.hub import allowed
from resnet_xf.formats.layouts import Words
from resnet_xf.formats.matching import Match, kernels, matches, names_in_graph, sized
from resnet_xf.formats.recognise import named_plan
from resnet_xf.formats.refusal import or_graph, refusal
from resnet_xf.formats.steps import steps_of

WAY_WITHOUT_GRAPH = "move the graph away, and name the network with --spec"
"""The end of a message on a graph that cannot be used."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported graph for MXNet.

    Attributes:
        path: the file.
        graph: as MXNet reads it.
        tensors: the arrays by the graph's names.
        channels_last: whether it takes images ``(N, H, W, C)``.
        layer: our layer with the same output; empty for the whole network.
    """

    path: Path
    graph: bytes
    tensors: Weights
    channels_last: bool
    layer: str


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


def identify(
    file: CheckpointFile,
    spec: Plan | Spec | str | None = None,
    num_classes: int | None = None,
    *,
    keep_softmax: bool = False,
    backbone: bool = False,
) -> Identity:
    """Identify the network of a file: by the graph beside it, else by the given spec, the file's, or all of the zoo.

    Args:
        file: the checkpoint.
        spec: the network that it must be: a plan, a spec, the name of one, or the path of its file.
        num_classes: of the file; if None as its last layer has.
        keep_softmax: keep the softmax at the end of a graph.
        backbone: take the residual network without its head, out of a larger one too.

    Raises:
        WeightsError: if no candidate fits. The message lists the tensors that are missing, left over or of the wrong
            shape for the nearest candidate. Or if the graph has a part that no plan has, or is not the given spec's.
    """
    spec = None if spec is None else plan(spec).spec
    tensors, named = file.tensors, False
    if file.symbol is not None:
        named = any(name in tensors for name in file.symbol.variables)
    if file.symbol is None or (file.spec is not None and not named):  # we wrote the file, of the graph's weights
        match, others = _by_names(file, spec or file.spec, num_classes, backbone=backbone)
        identity = _identity(file, match, others, guessed=not (spec or file.spec))
        return _without_head(identity, match) if backbone else identity
    if not named:
        match, _ = _by_names(file, spec, num_classes)  # save_parameters() wrote the file, and export() the graph
        names = names_in_graph(match, file.symbol.variables)
        if names is None:
            raise WeightsError(
                f"{file.symbol.path}: has not the names of {match.plan.spec.name}; is it the graph of {file.path}? "
                "Write both with network.export(…)"
            )
        tensors = {names[place.ours]: file.tensors[place.theirs] for place in match.places}
    return _from_graph(file, file.symbol, tensors, spec, keep_softmax=keep_softmax, trunk=backbone)


def check_unambiguous(file: CheckpointFile, identity: Identity) -> None:
    """Raise WeightsError if a network is assumed, and others of the same names and shapes compute something else."""
    if identity.others:
        raise WeightsError(
            f"{file.path}: could be {assumption(identity.plan.spec)}; but {', '.join(identity.others)} have the same "
            f"names and shapes, and other outputs. Name the network (--spec {identity.plan.spec.name}), or give "
            f"outputs that you have (convert --images images.npy --expect outputs.npy){or_graph(file)}"
        )


def _by_names(
    file: CheckpointFile, target: Spec | None, num_classes: int | None, *, backbone: bool = False
) -> tuple[Match, tuple[str, ...]]:
    """The network whose names and shapes a file has, and what else has the same."""
    fits, nearest = matches(file.tensors, target, num_classes, part=backbone)
    if not fits:
        raise WeightsError(f"{file.path}: {refusal(file, nearest, target)}")
    stride, told = None, None
    if target is None and fits[0].layout.words == "gluon":
        stride = output_stride(file.tensors)
    elif target is None and (told := allowed(file.path, fits)):
        fits, stride = told
    if stride is not None:  # dilation is told, so that it makes no candidate
        fits = [match for match in fits if not is_dilated(match.plan.spec)] or fits
    hints = hinted([match.plan.spec.name for match in fits], fits[0].prefix)
    fits = [match for match in fits if match.plan.spec.name in hints]
    chosen = next((match for match in fits if match.layout.is_own(match.plan.spec.name)), fits[0])
    name = chosen.plan.spec.name
    chosen = replace(chosen, plan=_listed(chosen.plan))
    root = arithmetic(chosen.plan.spec).root
    others = [] if told else [*chosen.layout.others(name)]
    others += [one.plan.spec.name for one in fits if arithmetic(one.plan.spec).root != root]
    if stride in (DILATED, 16) and isinstance(chosen.plan.spec, ResNetSpec):
        chosen = replace(chosen, plan=plan(with_output_stride(chosen.plan.spec, stride)))
    elif stride is None and could_be_dilated(chosen.plan, chosen.layout):
        others.append("networks with dilation in place of stride")
    return chosen, tuple(others)


def _listed(planned: Plan) -> Plan:
    """The plan of a network in the zoo that is equal, if the zoo does not list this one."""
    spec = planned.spec
    if spec.name in ZOO or not isinstance(spec, ResNetSpec) or spec.name not in relatives():
        return planned
    return next((one for one in map(plan, _alike(spec, ZOO.values())) if one.root == planned.root), planned)


def twins(planned: Plan) -> list[Spec]:
    """The published specs of other arithmetic with the same array names and shapes: no file distinguishes them."""
    if not isinstance(planned.spec, ResNetSpec):
        return []
    shapes, root = all_weight_shapes(planned), arithmetic(planned.spec).root
    alike = _alike(planned.spec, [*ZOO.values(), *relatives().values()])
    return [one for one in alike if all_weight_shapes(one) == shapes and arithmetic(one).root != root]


def _alike(spec: ResNetSpec, published: Iterable[Spec]) -> Iterator[Spec]:
    """Yield the published specs with as many kernels, each with this spec's numbers of classes and channels."""
    for one in published:
        if kernels(one) == kernels(spec):
            yield sized(one, spec.num_classes, spec.in_channels)


def arithmetic(spec: Spec) -> Plan:
    """The plan of the spec with default settings and initial values of the norms, on which no file's names depend.

    An explicit spec's is returned as it is.
    """
    if not isinstance(spec, ResNetSpec):
        return plan(spec)
    default = ResNetSpec(name=spec.name, stages=spec.stages)
    defaults = {name: getattr(default, name) for name in ("norm_eps", "norm_momentum", "zero_init_last")}
    return plan(msgspec.structs.replace(spec, **defaults))


def _identity(file: CheckpointFile, match: Match, others: tuple[str, ...], *, guessed: bool) -> Identity:
    """The identity of a match: the arrays by neutral name."""
    weights: Weights = {}
    shifts: Weights = {}
    for place in match.places:
        if place.theirs not in file.tensors or place.theirs in match.misshapen:
            continue  # the head of a backbone
        array = file.tensors[place.theirs]
        _check_values(file, place.theirs, array, is_variance=place.ours.endswith("running_var"))
        if place.fixed is None:
            weights[place.ours] = array
        elif place.fixed == 0 and array.any():  # MXNet adds this shift, though it is not trained
            shifts[place.ours] = array
    layout, planned = match.layout, match.plan
    if shifts:
        planned = _with_shift(file, planned, shifts)
    shapes = all_weight_shapes(planned)
    weights = {name: array.reshape(shapes[name]) for name, array in (weights | shifts).items()}
    if guessed and (growth := growth_by_eps(weights)) > MOST_GROWTH:
        usual = " or ".join(f"{eps:g}" for eps in EPS[1:])
        others += (f"networks with an eps of {usual}, whose outputs are up to {growth:.1f} times smaller",)
    own = others if guessed else ()
    notes: tuple[str, ...] = ()
    if match.head and (at := re.fullmatch(r"(fc\.\d+)\.weight", match.head[0])) and layout.structural("fc") == "fc":
        notes = (f"{at[1]} is the head; what stands beside it without arrays, as a dropout or a softmax, is left out",)
    return Identity(
        planned, layout.title, layout.words, match.prefix, weights, guessed=guessed, others=own, notes=notes
    )


def _with_shift(file: CheckpointFile, planned: Plan, shifts: Weights) -> Plan:
    """The plan whose norm on the images has a shift; raise WeightsError if other norms have one that they may not."""
    spec = planned.spec
    if set(shifts) != {"input_norm.bias"} or not isinstance(spec, ResNetSpec):
        raise WeightsError(
            f"{file.path}: the shifts of {', '.join(shifts)} are not 0, and {spec.name} has none there; "
            f"name the network with --spec{or_graph(file)}"
        )
    stem = msgspec.structs.replace(spec.stem, input_norm="shift")
    return plan(msgspec.structs.replace(spec, name=f"{spec.name}_shift", stem=stem))


def _from_graph(
    file: CheckpointFile, symbol: Symbol, tensors: Weights, spec: Spec | None, *, keep_softmax: bool, trunk: bool
) -> Identity:
    """The network that the graph beside a file describes.

    Raises:
        WeightsError: if no plan has a part of the graph, the arrays do not fit it, or ``spec`` is another network.
    """
    try:
        graph = read_graph(symbol, tensors, keep_softmax=keep_softmax, trunk=trunk)
        zeros = {name for name, array in tensors.items() if array.ndim == 1 and not array.any()}
        planned, names = named_plan(graph.steps, symbol.title, zeros, spec)
    except (WeightsError, SpecError, ShapeError) as error:
        raise WeightsError(f"{symbol.path}: {error}; {WAY_WITHOUT_GRAPH}") from None
    layers, weights = dict(walk(planned.root)), {}
    for ours, shape in all_weight_shapes(planned).items():
        array = tensors[names[ours]]
        _check_values(file, names[ours], array, is_variance=ours.endswith("running_var"))
        if array.size != prod(shape):
            layer = layers[layer_of(ours)]
            if not isinstance(layer, GroupNorm) or array.size != layer.groups:
                raise WeightsError(f"{file.path}: {names[ours]} has the shape {array.shape}, expected {shape}")
            array = np.repeat(array, layer.channels // layer.groups)  # one value for each group of channels
        weights[ours] = array.reshape(shape)
    notes = list(graph.notes)
    in_graph = {symbol.nodes[number].name for number in symbol.reached(graph.end)}
    if left := [name for name in tensors if name not in in_graph]:
        whose = "of other parts" if trunk else "not in the graph"
        notes.append(f"{len(left)} arrays are {whose}, and are left out: {', '.join(left[:3])}")
    top = _layer_with(symbol.nodes[graph.head].name, planned, graph) if trunk else ""
    shown = {symbol.nodes[number].name for number in symbol.reached(graph.head)}
    inner = {name: array for name, array in tensors.items() if name in shown}
    exported = Exported(symbol.path, symbol.for_mxnet(graph.head), inner, graph.channels_last, top)
    return Identity(planned, f"the graph {symbol.path.name}", "gluon", "", weights, exported, notes=tuple(notes))


def _layer_with(name: str, planned: Plan, graph: Graph) -> str:
    """The top layer of a plan whose output is that of a node of the graph."""
    ours = steps_of(planned.root.children)
    pairs = {theirs.name: one.name.partition(".")[0] for one, theirs in zip(ours, graph.steps, strict=True)}
    return pairs[name]


def _without_head(identity: Identity, match: Match) -> Identity:
    """The network of a file without graph, without its head."""
    planned, notes = headless(identity.plan), identity.notes
    weights = {name: identity.weights[name] for name in all_weight_shapes(planned)}
    if left := match.left_over:
        notes = (*notes, f"{len(left)} arrays are of other parts, and are left out: {', '.join(left[:3])}")
    return replace(identity, plan=planned, weights=weights, notes=notes)


def _check_values(file: CheckpointFile, name: str, array: Array, *, is_variance: bool) -> None:
    """Raise WeightsError for values that no network can have."""
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(
            f"{file.path}: {name} holds {array.dtype} values, expected floating point; "
            "save the network as it was before it was quantised"
        )
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise WeightsError(f"{file.path}: {name} holds {count} values that are NaN or infinite; take an earlier file")
    if is_variance and (array < 0).any():
        raise WeightsError(f"{file.path}: {name} holds negative values, and a variance has none; take another file")
