"""Which published networks have the names and shapes of a file's arrays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import msgspec

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes
from resnet_xf.architecture.zoo import REFERENCE, ZOO, relatives
from resnet_xf.formats.families import LAYOUTS
from resnet_xf.formats.layouts import Layout, Place, comparable, places

FIRST = ("conv1.weight", "conv1.0.weight")
"""Our names of the first convolution."""

STEM = ("conv1", "conv1.0", "conv1.3", "conv1.6")
"""Our names of the convolutions in a stem."""

MAX_COUNT = 1_000_000
"""The largest number of classes or channels in a spec."""

NEAREST = 8
"""How many networks are compared in full to name the nearest one, if none fits."""

MOST = 8
"""How many tensors a complaint names."""


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate network compared with a file. It fits if nothing is missing, left over or of the wrong shape."""

    plan: Plan
    layout: Layout
    prefix: str
    places: tuple[Place, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    left_over: tuple[str, ...]

    @property
    def wrong(self) -> int:
        """How many tensors are missing, left over or of the wrong shape."""
        return len(self.missing) + len(self.misshapen) + len(self.left_over)

    @property
    def head(self) -> tuple[str, ...]:
        """The file's names of the head's arrays."""
        return tuple(place.theirs for place in self.places if place.ours.startswith("fc."))

    @property
    def has_trunk(self) -> bool:
        """Whether nothing is missing or of the wrong shape but the head."""
        return not {*self.missing, *self.misshapen} - {*self.head}

    def complaints(self, tensors: Weights) -> str:
        """Phrases for the tensors that are missing, left over or of the wrong shape."""
        shapes = {place.theirs: place.shape for place in self.places}
        phrases = [f"missing {name}" for name in self.missing[:MOST]]
        phrases += [f"{n} has shape {tensors[n].shape}, expected {shapes[n]}" for n in self.misshapen[:MOST]]
        phrases += [f"left over {name}" for name in self.left_over[:MOST]]
        more = f"; and {self.wrong - MOST} more" if self.wrong > MOST else ""
        return "; ".join(phrases[:MOST]) + more


@dataclass(frozen=True, slots=True)
class _View:
    """A file's names in the form of one layout."""

    layout: Layout
    counted: bool
    names: Mapping[str, str]
    """The file's names by the comparable ones."""
    prefix: str
    heads: tuple[str, ...] = ()
    """The beginnings of the names of linear layers that may be the head under another name."""
    kernels: int = 0
    """Number of kernels of the stem and the stages."""
    stem: tuple[int, ...] = ()
    """Shape of the first convolution's kernel; empty if the file has none."""
    classes: int | None = None
    """The outputs of the head; None if the file has none."""

    def may_hold(self, spec: Spec) -> bool:
        """Whether the number of kernels and the first one are a network's; quick, and needs no plan."""
        if kernels(spec) != self.kernels or not isinstance(spec, ResNetSpec):
            return False
        stem = spec.stem
        width = (stem.hidden or (max(1, stem.width // 2),))[0] if stem.kind == "deep" else stem.width
        return not self.stem or (self.stem[0], *self.stem[2:]) == (width, *([7, 7] if stem.kind == "conv7" else [3, 3]))


def matches(
    tensors: Weights, target: Spec | None, num_classes: int | None, *, part: bool = False
) -> tuple[list[Match], list[Match]]:
    """Every network that fits, at most once; and if none does, the nearest ones in order.

    Args:
        tensors: the file's arrays.
        target: the only candidate; all published networks if None.
        num_classes: of the file; if None as its last layer has.
        part: the stem and the stages are enough, and other tensors may be left over.
    """
    views = [*_views(tensors)]
    published = [target] if target else [*ZOO.values(), *relatives().values()]
    fits: dict[str, Match] = {}
    for spec in published:
        likely = [view for view in views if target or (view.may_hold(spec) and _may_be(view.layout, spec))]
        for view in sorted(
            likely, key=lambda view: not (view.layout.is_own(spec.name) or view.layout.may_be(spec.name))
        ):
            match = _match(tensors, view, spec, num_classes)
            if match is not None and (match.has_trunk if part else not match.wrong):
                fits[spec.name] = match
                break
    if fits:
        return [*fits.values()], []
    pairs = [(view, spec) for spec in published for view in views if target or _may_be(view.layout, spec)]
    if target is None:
        pairs.sort(key=lambda pair: abs(kernels(pair[1]) - pair[0].kernels))
    nearest = [_match(tensors, view, spec, num_classes) for view, spec in islice(pairs, NEAREST)]
    return [], sorted(filter(None, nearest), key=lambda match: match.wrong)


def names_in_graph(match: Match, variables: Sequence[str]) -> dict[str, str] | None:
    """By our names of arrays those in an exported graph; None if no family calls this network's arrays so."""
    for layout in LAYOUTS:
        for counted in layout.ways:
            expected = places(match.plan, layout, counted=counted)
            if expected is None or not (counted or layout.joint == "_"):
                continue
            names = comparable(variables, layout, counted=counted)
            prefix = _own_prefix(names, [_first(layout, counted, name) for name in FIRST])
            view = _View(layout, counted, names, prefix, tuple(_heads(layout, counted, names)))
            in_graph = {place.ours: names.get(form) for place, form in _forms(view, expected)}
            if None not in in_graph.values():
                return {ours: theirs for ours, theirs in in_graph.items() if theirs is not None}
    return None


def _forms(view: _View, expected: list[Place]) -> Iterator[tuple[Place, str]]:
    """Places with their names in a view; the head's are those of the only linear layer, if they are not there."""
    for place in expected:
        form = view.prefix + place.theirs
        if place.ours.startswith("fc.") and form not in view.names and len(view.heads) == 1:
            form = view.heads[0] + re.split(r"[._]", place.theirs)[-1]
        yield place, form


def _may_be(layout: Layout, spec: Spec) -> bool:
    """Whether a family can have a published network."""
    if layout.only:
        return layout.may_be(spec.name)
    if spec.name in ZOO:
        return REFERENCE[spec.name] not in ("symbol", "insightface")
    return spec.name.partition("_")[0] not in ("gluoncv2", "d2l") and not spec.name.endswith("_thumbnail")


@cache
def kernels(spec: Spec) -> int:
    """The number of kernels in a network's stem and stages, without its plan."""
    if not isinstance(spec, ResNetSpec):
        return sum(len(shape) > 1 for shape in all_weight_shapes(spec).values())
    count = 3 if spec.stem.kind == "deep" else 1
    channels = spec.stem.width
    per_block = (3 if spec.block == "bottleneck" else 2) + (2 if spec.se else 0) + (2 if spec.radix else 0)
    for stage in spec.stages:
        projects = stage.stride != 1 or channels != stage.channels or spec.project_first
        count += stage.depth * per_block + projects
        channels = stage.channels
    return count


def _views(tensors: Weights) -> Iterator[_View]:
    """The file's names in the form of every layout that has its first convolution or its head."""
    forms: dict[tuple[object, ...], dict[str, str]] = {}
    prefixes: dict[tuple[object, ...], str] = {}
    for layout in LAYOUTS:
        for counted in layout.ways:
            key = (layout.rewritten(counted=counted), counted)
            if key not in forms:
                forms[key] = comparable(tensors, layout, counted=counted)
            names = forms[key]
            firsts = tuple(_first(layout, counted, name) for name in FIRST)
            prefix = ""
            if counted or layout.joint == "_":
                if (*key, firsts) not in prefixes:
                    prefixes[*key, firsts] = _own_prefix(names, firsts)
                prefix = prefixes[*key, firsts]
            stem = next((tensors[names[form]].shape for one in firsts if one and (form := prefix + one) in names), ())
            fc = f"{layout.structural('fc')}{layout.joint}weight"
            fc = prefix + ("dense0_weight" if counted and layout.scopes is not None else fc)
            if not stem and fc not in names:
                continue
            heads = _heads(layout, counted, names, tensors)
            forms_of_head = [fc, *(f"{head}weight" for head in heads if len(heads) == 1)]
            head = next((tensors[names[form]].shape for form in forms_of_head if form in names), ())
            pattern = re.compile(re.escape(prefix) + _kernel_pattern(layout, counted=counted))
            count = sum(
                tensors[name].ndim > 1 and form.startswith(prefix) and pattern.fullmatch(form) is not None
                for form, name in names.items()
            )
            classes = head[0] if len(head) == 2 else None
            yield _View(layout, counted, names, prefix, tuple(heads), count, stem if len(stem) == 4 else (), classes)


def _first(layout: Layout, counted: bool, name: str) -> str | None:
    """The family's name of a first convolution's kernel."""
    if counted:
        return "conv0_weight" if layout.scopes is not None else name.replace(".", "_")
    structural = layout.structural(name.removesuffix(".weight"))
    return f"{structural}{layout.joint}weight" if structural is not None else None


def _kernel_pattern(layout: Layout, *, counted: bool) -> str:
    """A regular expression for the names of the kernels in a family's stem and stages."""
    if counted and layout.scopes is not None:
        scopes = "|".join({re.escape(scope).replace(r"\{\}", r"\d+") for scope in layout.scopes if scope})
        return rf"(?:(?:{scopes})(?:conv|dense)|conv)\d+_weight" if scopes else r"conv\d+_weight"
    joint = "_" if counted else layout.joint
    outer = [name for layer in STEM if (name := layout.structural(layer)) is not None]
    block = "layer{stage}.{block}.{inner}" if layout.outer is None else layout.block
    number = dict.fromkeys(("place", "stage", "block", "unit"), r"\d+")
    inner = re.escape(block).replace(r"\{", "{").replace(r"\}", "}").format(**number, inner=".+")
    pattern = "|".join([inner, *(re.escape(name) for name in outer)])
    if counted:
        pattern = pattern.replace(r"\.", "_")
    return rf"(?:{pattern}){re.escape(joint)}weight"


def _own_prefix(names: Mapping[str, str], firsts: Sequence[str | None]) -> str:
    """The network's own prefix on exported names, as ``resnetv10_``: the one of most names in stages."""
    prefixes = {
        name.removesuffix(first)
        for first in firsts
        for name in names
        if first and name.endswith(first) and not re.search(r"stage|unit|layers\d|down\d", name)
    }
    if len(prefixes) < 2:
        return next(iter(prefixes), "")
    in_stages = Counter(found[1] for name in names if (found := re.match(r"(.*?)(?:stage|layers?|down)\d", name)))
    return min(sorted(prefixes), key=lambda prefix: (-in_stages[prefix], len(prefix)))


def _match(tensors: Weights, view: _View, spec: Spec, num_classes: int | None) -> Match | None:
    """The spec with the file's sizes in a layout; None if the family has no such network."""
    channels = view.stem[1] if view.stem else spec.in_channels
    classes = (num_classes or view.classes or spec.num_classes) if spec.num_classes else 0
    is_possible = 1 <= channels <= MAX_COUNT and classes <= MAX_COUNT
    fitted = plan(sized(spec, classes, channels) if is_possible else spec)
    expected = places(fitted, view.layout, counted=view.counted)
    if expected is None:
        return None
    forms = _forms(view, expected)
    listed = [replace(place, theirs=view.names.get(form, form)) for place, form in forms]
    names = {place.theirs for place in listed}
    return Match(
        fitted,
        view.layout,
        view.prefix,
        tuple(listed),
        missing=tuple(place.theirs for place in listed if place.theirs not in tensors),
        misshapen=tuple(p.theirs for p in listed if p.theirs in tensors and tensors[p.theirs].shape != p.shape),
        left_over=tuple(name for name in tensors if name not in names),
    )


def _heads(
    layout: Layout, counted: bool, names: Mapping[str, str], tensors: Mapping[str, Array] | None = None
) -> list[str]:
    """The beginnings of the names of linear layers that may be the head under another name.

    A fine-tuned network often has a new head: in exported names with a prefix of its own, in PyTorch inside an
    ``nn.Sequential`` with a dropout before it.
    """
    if counted or layout.joint == "_":
        inside = r"(?:stage\d+|layers\d+)_"
        found = [form for form in names if re.search(r"dense\d+_weight$", form) and not re.search(inside, form)]
    else:
        found = [form for form in names if re.fullmatch(r"fc\.\d+\.weight", form)]
    return [form.removesuffix("weight") for form in found if not tensors or tensors[names[form]].ndim == 2]


def sized(spec: Spec, num_classes: int, in_channels: int) -> Spec:
    """The spec with other sizes; an explicit one as it is, because its layers have them."""
    if not isinstance(spec, ResNetSpec):
        return spec
    return msgspec.structs.replace(spec, num_classes=num_classes, in_channels=in_channels)
