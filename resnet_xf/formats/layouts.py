"""The names that a family of networks gives to our layers and arrays; the families are in :mod:`.families`.

A :class:`Layout` names every layer of a plan as the family does. From it follow the names of all arrays in a file: the
structural ones of ``save_parameters`` (``features.5.0.bn1.gamma``), or the counted ones of ``export``
(``resnetv20_stage1_batchnorm0_gamma``).
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.nodes import STATISTICS, Conv, Node, Norm, walk
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.weights import Array, Weights

Words = Literal["torch", "gluon"]

GLUON_WORDS = {
    "norm": {"weight": "gamma", "bias": "beta"},
    "groupnorm": {"weight": "gamma", "bias": "beta"},
    "prelu": {"weight": "alpha"},
}
"""By kind of layer, what Gluon calls its arrays where the name is not ours."""

COUNTED = {"norm": "batchnorm", "linear": "dense"}
"""By kind of layer, its word in Gluon's counted names where that is not ours."""

Rewrites = tuple[tuple[str, str], ...]
"""Regular expressions, and what replaces their matches."""

COUNTED_REWRITES: Rewrites = (
    (r"batchnorm(?:extra|cudnnoff)(?=\d+_)", "batchnorm"),
    (r"_moving_(?=mean$|var$)", "_running_"),
)
"""What is rewritten in all counted names: kinds of batch norms that compute the same, and the symbol API's words."""

FEATURES_REWRITES: Rewrites = ((r"^(?=\d+\.)", "features."),)
"""What is rewritten where a zoo's ``network.features`` was saved alone."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one family.

    Attributes:
        title: the family, in words.
        models: shell-style patterns of its own networks' names in the zoo.
        outer: its names of the layers outside the stages; None if they are ours.
        first_stage: the ``place`` of its first stage in ``block``.
        block: its name of a layer in a block, by ``place``, ``stage`` (from 1), ``block`` (from 0), ``unit`` (from 1)
            and ``inner``.
        inner: its names of the layers in a block; the other layers have our names.
        scopes: the beginnings of its counted names in a stage, for blocks and for shortcuts; None if its counted names
            are our dotted names with ``_`` for each dot.
        dilates: which of its networks may have dilation in place of stride, under the same names.
        words: ``torch`` (a norm has ``weight`` and ``bias``) or ``gluon`` (``gamma`` and ``beta``).
        only: patterns of the names of all networks that the family has; empty if it has any.
        joint: between a layer's name and the array's word: ``.``, or ``_`` in exported names.
        dense_gates: whether the convolutions without bias in its gates are dense layers.
        prelu: its word for the slopes of a PReLU.
        rewrites: of a file's names before they are compared.
        alike: by patterns of names, networks that compute something else under the same names, in words.
    """

    title: str
    models: tuple[str, ...] = ()
    outer: dict[str, str] | None = None
    first_stage: int = 0
    block: str = "features.{place}.{block}.{inner}"
    inner: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, str] | None = None
    dilates: Literal["none", "bottlenecks", "all"] = "none"
    words: Words = "gluon"
    only: tuple[str, ...] = ()
    joint: Literal[".", "_"] = "."
    dense_gates: bool = False
    prelu: str = "alpha"
    rewrites: Rewrites = ()
    alike: Mapping[str, str] = field(default_factory=dict)

    def is_own(self, model: str) -> bool:
        """Whether the family has a network with this name in the zoo."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def may_be(self, model: str) -> bool:
        """Whether the family can have the network with this name."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.only)

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether a file's names are counted: both are possible in Gluon's zoos."""
        if self.words == "torch" or self.joint == "_":
            return (False,)
        if self.outer is None and self.scopes is not None:
            return (True,)  # another family has the same structural names
        return (False,) if self.outer is not None and self.scopes is None else (False, True)

    def rewritten(self, *, counted: bool) -> Rewrites:
        """What is rewritten in a file's names before they are compared."""
        if counted or self.joint == "_":
            return COUNTED_REWRITES + self.rewrites
        has_features = self.outer is not None and self.block.startswith("features.")
        return (FEATURES_REWRITES if has_features else ()) + self.rewrites

    def others(self, model: str) -> tuple[str, ...]:
        """What else has the names and shapes of the network with this name, in words."""
        return tuple(what for pattern, what in self.alike.items() if fnmatch.fnmatchcase(model, pattern))

    def structural(self, layer: str) -> str | None:
        """The family's structural name of a layer of ours, or None if it has no such layer."""
        if self.outer is None:
            block = re.fullmatch(r"(layer\d+\.\d+)\.(.+)", layer)
            return f"{block[1]}.{self.inner.get(block[2], block[2])}" if block else layer
        if block := re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", layer):
            stage, number, inner = int(block[1]), int(block[2]), block[3]
            return self.block.format(
                place=stage - 1 + self.first_stage,
                stage=stage,
                block=number,
                unit=number + 1,
                inner=self.inner.get(inner, inner),
            )
        return self.outer.get(layer)

    def words_of(self, node: Node) -> dict[str, str]:
        """The family's words for a layer's arrays, where they are not ours."""
        if self.words == "torch":
            return {}
        return {"weight": self.prelu} if node.kind == "prelu" else GLUON_WORDS.get(node.kind, {})

    def is_dense(self, node: Node, layer: str) -> bool:
        """Whether a convolution of ours is a dense layer in the family."""
        return self.dense_gates and isinstance(node, Conv) and not node.bias and ".se." in layer


@dataclass(frozen=True, slots=True)
class Place:
    """An array in a file: its name there, our name and its shape.

    Gluon's files have a scale and a shift also for norms that have neither in a plan. ``fixed`` is the constant value
    of these arrays, and None for all others.
    """

    theirs: str
    ours: str
    shape: tuple[int, ...]
    fixed: float | None = None


def places(planned: Plan, layout: Layout, *, counted: bool = False) -> list[Place] | None:
    """Every array of the network with the family's name, in order; None if the family has no such network.

    ``counted``: with the names that ``export`` writes, without the network's own prefix.
    """
    listed: list[Place] = []
    counts: Counter[tuple[str, str]] = Counter()
    for layer, node in walk(planned.root):
        shapes = {word: array.shape for word, array in node.arrays().items()}
        if not shapes:
            continue
        structural = layout.structural(layer)
        if structural is None:
            return None
        before = f"{_counted(layer, node, layout, counts)}_" if counted else f"{structural}{layout.joint}"
        words = layout.words_of(node)
        fixed: dict[str, float] = {}
        if isinstance(node, Norm) and layout.words == "gluon":
            shapes = dict.fromkeys(("weight", "bias", *STATISTICS), (node.channels,))
            fixed = ({} if node.scale else {"weight": 1.0}) | ({} if node.shift else {"bias": 0.0})
        if layout.is_dense(node, layer):
            shapes = {word: shape[:2] for word, shape in shapes.items()}
        for suffix, shape in shapes.items():
            listed.append(Place(before + words.get(suffix, suffix), f"{layer}.{suffix}", shape, fixed.get(suffix)))
    return listed


def comparable(names: Iterable[str], layout: Layout, *, counted: bool = False) -> dict[str, str]:
    """A file's names by the form in which the layout's names are compared with them.

    Counted names are counted from 0 in each scope: those of a second network in a process begin higher.
    """
    forms = {name: name for name in names}
    for pattern, by in layout.rewritten(counted=counted):
        forms = {name: re.sub(pattern, by, form) for name, form in forms.items()}
    if counted:
        forms = _from_zero(forms)
    by_form = {form: name for name, form in forms.items()}
    return by_form if len(by_form) == len(forms) else {name: name for name in forms}


def _from_zero(forms: dict[str, str]) -> dict[str, str]:
    """Names whose numbers of layers begin at 0 in each scope."""
    counted = re.compile(r"((?:.*_)?(?:conv|batchnorm|dense))(\d{1,9})(_[a-z_]+)")
    parts = {name: counted.fullmatch(form) for name, form in forms.items()}
    numbers: dict[str, set[int]] = defaultdict(set)
    for part in parts.values():
        if part:
            numbers[part[1]].add(int(part[2]))
    ranks = {scope: {number: rank for rank, number in enumerate(sorted(used))} for scope, used in numbers.items()}
    return {
        name: f"{part[1]}{ranks[part[1]][int(part[2])]}{part[3]}" if (part := parts[name]) else form
        for name, form in forms.items()
    }


def renamed(layout: Layout, weights: Mapping[str, Array]) -> Weights:
    """The arrays by the family's structural names of layers and our own last words.

    :meth:`resnet_xf.backend.contract.Backend.load` expects these names for a network of a Gluon zoo.
    """
    return {f"{layout.structural(layer_of(name))}.{name.rpartition('.')[2]}": array for name, array in weights.items()}


def _counted(layer: str, node: Node, layout: Layout, counts: Counter[tuple[str, str]]) -> str:
    """Gluon's generated name: a scope, the kind of layer, and how many of that kind precede it in the scope."""
    if layout.scopes is None:
        return layer.replace(".", "_")
    scope = ""
    if stage := re.match(r"layer(\d+)\.", layer):
        scope = layout.scopes["downsample" in layer].format(stage[1])
    word = "dense" if layout.is_dense(node, layer) else COUNTED.get(node.kind, node.kind)
    counts[scope, word] += 1
    return f"{scope}{word}{counts[scope, word] - 1}"
