"""Which network a file's tensors are: its spec, and the layout that its names follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.layouts import LAYOUTS, Layout, Place, places
from resnet_xf.plan import Plan, plan
from resnet_xf.spec import ResNetSpec
from resnet_xf.weights import Weights
from resnet_xf.zoo import ZOO


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file's tensors were found to be.

    Attributes:
        plan: the network, with the file's own number of classes and input channels.
        layout: the family whose names the file follows.
        counted: whether they are the names that ``export`` makes up.
        prefix: the network's own prefix on such names.
        weights: the arrays by neutral name.
        guessed: whether the spec was found by names and shapes, and not given.
        others: names of zoo specs of other arithmetic that these names and shapes would fit as well.
    """

    plan: Plan
    layout: Layout
    counted: bool
    prefix: str
    weights: Weights
    guessed: bool = False
    others: tuple[str, ...] = field(default=())


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
    candidates = [known] if known else list(ZOO.values())
    best: _Match | None = None
    fits: list[_Match] = []
    for candidate in candidates:
        for match in _matches(file, candidate, num_classes):
            if not match.complaints:
                fits.append(match)
                break
            if best is None or len(match.complaints) < len(best.complaints):
                best = match
    if fits:
        chosen = next((match for match in fits if match.layout.is_own(match.plan.spec.name)), fits[0])
        others = tuple(m.plan.spec.name for m in fits if m.plan.root != chosen.plan.root)
        return _identity(file, chosen, guessed=known is None, others=others)
    if best is None:
        names = ", ".join(list(file.tensors)[:3])
        raise WeightsError(f"{file.path}: the names ({names}, …) follow no known layout; are these a ResNet's weights?")
    nearest = best.plan.spec.name if known else f"{best.plan.spec.name}, the nearest in the zoo (--spec names another)"
    listed = "; ".join(best.complaints[:8])
    more = f"; and {len(best.complaints) - 8} more" if len(best.complaints) > 8 else ""
    raise WeightsError(f"{file.path}: does not hold the weights of {nearest}: {listed}{more}")


def _matches(file: CheckpointFile, spec: ResNetSpec, num_classes: int | None) -> Iterable[_Match]:
    """The spec under every layout that has a head by a name in the file, structural names and counted ones."""
    for layout in LAYOUTS:
        for counted in (False, True) if layout.words == "gluon" else (False,):
            if counted is False and layout.outer is None and layout.scopes is not None:
                continue  # a family whose structural names are another's
            found = places(plan(spec), layout, counted=counted)
            if found is None:
                continue
            head = next(place for place in found if place.ours == "fc.weight")
            prefix = _prefix(file, head.theirs) if counted else ""
            if prefix is None or prefix + head.theirs not in file.tensors:
                continue
            fitted = _fitted(file, spec, found, prefix, num_classes)
            fitted_plan = plan(fitted)
            wanted = tuple(
                Place(prefix + p.theirs, p.ours, p.shape, p.fixed)
                for p in places(fitted_plan, layout, counted=counted) or ()
            )
            yield _Match(fitted_plan, layout, counted, prefix, wanted, tuple(_complaints(file.tensors, wanted)))


def _prefix(file: CheckpointFile, head: str) -> str | None:
    """What stands before every made-up name, as ``resnetv10_``: found by the one name that ends as the head's does."""
    ends = [name.removesuffix(head) for name in file.tensors if name.endswith(head)]
    return ends[0] if len(ends) == 1 else None


def _fitted(
    file: CheckpointFile, spec: ResNetSpec, found: list[Place], prefix: str, num_classes: int | None
) -> ResNetSpec:
    """The spec with the number of classes and of input channels that the file's own tensors have."""
    fields: dict[str, int] = {}
    by_ours = {place.ours: file.tensors.get(prefix + place.theirs) for place in found}
    head = by_ours["fc.weight"]
    first = by_ours.get("conv1.weight", by_ours.get("conv1.0.weight"))
    if head is not None and head.ndim == 2:
        fields["num_classes"] = num_classes or head.shape[0]
    if first is not None and first.ndim == 4:
        fields["in_channels"] = first.shape[1]
    return msgspec.structs.replace(spec, **fields)


def _complaints(tensors: Weights, wanted: tuple[Place, ...]) -> Iterable[str]:
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


def _identity(file: CheckpointFile, match: _Match, *, guessed: bool, others: tuple[str, ...]) -> Identity:
    """The match with its arrays under neutral names, what the file says of its norms taken in."""
    weights: Weights = {}
    for place in match.places:
        array = file.tensors[place.theirs]
        if not np.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"{file.path}: {place.theirs} holds {array.dtype} numbers, expected floating point")
        if not np.isfinite(array).all():
            count = int(np.size(array) - np.isfinite(array).sum())
            raise WeightsError(f"{file.path}: {place.theirs} holds {count} numbers that are NaN or infinite")
        if place.ours.endswith("running_var") and (array < 0).any():
            raise WeightsError(f"{file.path}: {place.theirs} holds negative numbers, and a variance has none")
        if place.fixed is None:
            weights[place.ours] = array
        elif place.ours.endswith("bias") and array.any():  # MXNet adds such a shift, though nothing trains it
            raise WeightsError(f"{file.path}: {place.theirs} is not 0, and {match.plan.spec.name} has no shift there")
    planned = plan(_with_norms(file, match))
    for place in match.places:
        attributes = file.norms.get(place.theirs)
        if attributes and attributes.fix_gamma and place.fixed is None:
            weights[place.ours] = np.ones_like(weights[place.ours])
    return Identity(planned, match.layout, match.counted, match.prefix, weights, guessed, others)


def _with_norms(file: CheckpointFile, match: _Match) -> ResNetSpec:
    """The spec with the eps and momentum that the symbol beside the file gives all norms alike."""
    spec = match.plan.spec
    gammas = [place.theirs for place in match.places if place.theirs.endswith("gamma")]
    told = [file.norms[name] for name in gammas if name in file.norms]
    if not told:
        return spec
    if len({(one.eps, one.momentum) for one in told}) > 1:
        values = ", ".join(sorted({f"{one.eps:g}" for one in told}))
        raise SpecError(
            f"$.norm_eps: {file.symbol} gives its norms different eps or momentum ({values}); a spec has one"
        )
    return msgspec.structs.replace(spec, norm_eps=told[0].eps, norm_momentum=round(1 - told[0].momentum, 12))
