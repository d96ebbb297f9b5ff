"""Tables of the names that each family of networks gives to our layers and arrays.

A :class:`Layout` names every layer of a plan as the family does. From it follow the names of all arrays in a file: the
structural ones of ``save_parameters`` (``features.5.0.bn1.gamma``), or the counted ones of ``export``
(``resnetv20_stage1_batchnorm0_gamma``).
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.nodes import STATISTICS, Node, Norm, walk
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


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one family.

    Attributes:
        title: the family, in words.
        models: shell-style patterns of its own networks' names in the zoo.
        outer: its names of the layers outside the stages; None if they are ours.
        first_stage: its first stage is ``features.<first_stage>``.
        inner: its names of the layers in a block; the other layers have our names.
        scopes: the beginnings of its counted names in a stage, for blocks and for shortcuts; None if its counted names
            are our dotted names with ``_`` for each dot.
        dilates: whether some of its networks have dilation in place of stride, under the same names.
        words: ``torch`` (a norm has ``weight`` and ``bias``) or ``gluon`` (``gamma`` and ``beta``).
    """

    title: str
    models: tuple[str, ...] = ()
    outer: dict[str, str] | None = None
    first_stage: int = 0
    inner: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, str] | None = None
    dilates: bool = False
    words: Words = "gluon"

    def is_own(self, model: str) -> bool:
        """Whether the family has a network with this name in the zoo."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def structural(self, layer: str) -> str | None:
        """The family's structural name of a layer of ours, or None if it has no such layer."""
        if self.outer is None:
            return layer
        if block := re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", layer):
            stage, number, inner = block.groups()
            return f"features.{int(stage) - 1 + self.first_stage}.{number}.{self.inner.get(inner, inner)}"
        return self.outer.get(layer)


def _outer(*stem: str, norm: int | None = None) -> dict[str, str]:
    """A zoo's names outside the stages: the stem's layers are ``features.0`` and so on, then the norm and the head."""
    names = {layer: f"features.{number}" for number, layer in enumerate(stem)}
    return names | ({} if norm is None else {"norm": f"features.{norm}"}) | {"fc": "output"}


_BODY = {"conv1": "body.0", "bn1": "body.1", "conv2": "body.3", "bn2": "body.4", "conv3": "body.6", "bn3": "body.7"}
_SHORTCUT = {"downsample.0": "downsample"}
_STAGES = ("stage{}_", "stage{}_")
_V1 = _outer("conv1", "bn1")

TORCH = Layout("torchvision and timm", dilates=True, words="torch")
GLUON = Layout("this project's Gluon networks, GluonCV's v1b to v1s", ("resnet*_v1[bcds]",), dilates=True)
LAYOUTS = (
    TORCH,
    GLUON,
    Layout("GluonCV's v1b to v1s, exported", scopes=("layers{}_", "down{}_"), dilates=True),
    Layout("Gluon model zoo v1", ("resnet*_v1",), _V1, 4, _BODY, _STAGES),
    Layout("Gluon model zoo v2", ("resnet*_v2",), _outer("input_norm", "conv1", "bn1", norm=9), 5, _SHORTCUT, _STAGES),
    Layout("GluonCV CIFAR v1", ("cifar_resnet*_v1",), _V1, 2, _BODY, _STAGES),
    Layout("GluonCV CIFAR v2", ("cifar_resnet*_v2",), _outer("input_norm", "conv1", norm=5), 2, _SHORTCUT, _STAGES),
    Layout(
        "GluonCV CIFAR wide",
        ("cifar_wideresnet*",),
        _outer("input_norm", "conv1", "bn1", norm=6),
        3,
        _SHORTCUT,
        _STAGES,
    ),
)


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
        before = f"{_counted(layer, node, layout, counts)}_" if counted else f"{structural}."
        words = GLUON_WORDS.get(node.kind, {}) if layout.words == "gluon" else {}
        fixed: dict[str, float] = {}
        if isinstance(node, Norm) and layout.words == "gluon":
            shapes = dict.fromkeys(("weight", "bias", *STATISTICS), (node.channels,))
            fixed = ({} if node.scale else {"weight": 1.0}) | ({} if node.shift else {"bias": 0.0})
        for suffix, shape in shapes.items():
            listed.append(Place(before + words.get(suffix, suffix), f"{layer}.{suffix}", shape, fixed.get(suffix)))
    return listed


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
    word = COUNTED.get(node.kind, node.kind)
    counts[scope, word] += 1
    return f"{scope}{word}{counts[scope, word] - 1}"
