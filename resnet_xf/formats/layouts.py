"""How each source names what we name: explicit tables, one for each family of networks.

A :class:`Layout` gives for every layer of a plan the name that the family's own network gives it. From it come the
names of every array in a file, as ``save_parameters`` writes them (structural: ``features.5.0.bn1.gamma``) or as
``export`` does (counted: ``resnetv20_stage1_batchnorm0_gamma``).
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

GLUON_WORDS = {"norm": {"weight": "gamma", "bias": "beta"}, "prelu": {"weight": "alpha"}}
"""By kind of layer, what Gluon calls its arrays where the name is not ours."""

COUNTED = {"norm": "batchnorm", "linear": "dense"}
"""What Gluon calls a kind of layer where it makes up a name for one; the others as we do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One family's names.

    Attributes:
        title: the family.
        words: ``torch`` (a norm has ``weight`` and ``bias``) or ``gluon`` (``gamma`` and ``beta``).
        models: shell-style patterns of the zoo's names that this family's own networks have.
        outer: its names for the layers outside the stages; None if they are ours.
        first_stage: its first stage is ``features.<this>``.
        inner: its names for the layers of a block; a layer that is not there keeps our name.
        scopes: the beginnings of its counted names, for a stage's blocks and for their shortcuts; None if they are
            made of our own dotted names.
    """

    title: str
    words: Words
    models: tuple[str, ...] = ()
    outer: dict[str, str] | None = None
    first_stage: int = 0
    inner: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, str] | None = None

    def is_own(self, model: str) -> bool:
        """Whether the family has a network of that name."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def structural(self, layer: str) -> str | None:
        """The family's structural name of our layer, or None if it has no such layer."""
        if self.outer is None:
            return layer
        if block := re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", layer):
            stage, number, inner = block.groups()
            return f"features.{int(stage) - 1 + self.first_stage}.{number}.{self.inner.get(inner, inner)}"
        return self.outer.get(layer)


_BODY = {"conv1": "body.0", "bn1": "body.1", "conv2": "body.3", "bn2": "body.4", "conv3": "body.6", "bn3": "body.7"}
_ONE_CONV = {"downsample.0": "downsample"}
_STAGES = ("stage{}_", "stage{}_")

TORCH = Layout("torchvision and timm", "torch")
GLUON = Layout("this project's Gluon networks, GluonCV's v1b to v1s", "gluon", ("resnet*_v1[bcds]",))
LAYOUTS = (
    TORCH,
    GLUON,
    Layout("GluonCV's v1b to v1s, exported", "gluon", scopes=("layers{}_", "down{}_")),
    Layout(
        "Gluon model zoo v1",
        "gluon",
        ("resnet*_v1",),
        {"conv1": "features.0", "bn1": "features.1", "fc": "output"},
        4,
        _BODY,
        _STAGES,
    ),
    Layout(
        "Gluon model zoo v2",
        "gluon",
        ("resnet*_v2",),
        {"input_norm": "features.0", "conv1": "features.1", "bn1": "features.2", "norm": "features.9", "fc": "output"},
        5,
        _ONE_CONV,
        _STAGES,
    ),
    Layout(
        "GluonCV CIFAR v1",
        "gluon",
        ("cifar_resnet*_v1",),
        {"conv1": "features.0", "bn1": "features.1", "fc": "output"},
        2,
        _BODY,
        _STAGES,
    ),
    Layout(
        "GluonCV CIFAR v2",
        "gluon",
        ("cifar_resnet*_v2",),
        {"input_norm": "features.0", "conv1": "features.1", "norm": "features.5", "fc": "output"},
        2,
        _ONE_CONV,
        _STAGES,
    ),
    Layout(
        "GluonCV CIFAR wide",
        "gluon",
        ("cifar_wideresnet*",),
        {"input_norm": "features.0", "conv1": "features.1", "bn1": "features.2", "norm": "features.6", "fc": "output"},
        3,
        _ONE_CONV,
        _STAGES,
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """An array in a file: its name there, our name for it, its shape, and whether a plan has it at all.

    A norm without scale and shift has no such arrays here, and Gluon's files hold them nevertheless; their ``fixed``
    is the value that they stand for, and None in every other array.
    """

    theirs: str
    ours: str
    shape: tuple[int, ...]
    fixed: float | None = None


def places(planned: Plan, layout: Layout, *, counted: bool = False) -> list[Place] | None:
    """Every array of the network as the family names it, in order; None if the family has no such network.

    ``counted`` asks for the names that ``export`` writes, without the network's own prefix.
    """
    found: list[Place] = []
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
        if isinstance(node, Norm) and not node.affine and layout.words == "gluon":
            fixed = {"weight": 1.0, "bias": 0.0}
            shapes = dict.fromkeys((*fixed, *STATISTICS), (node.channels,))
        for suffix, shape in shapes.items():
            found.append(Place(before + words.get(suffix, suffix), f"{layer}.{suffix}", shape, fixed.get(suffix)))
    return found


def renamed(layout: Layout, weights: Mapping[str, Array]) -> Weights:
    """The network's arrays by the family's structural names of layers, each with our own last word.

    So :meth:`resnet_xf.backend.contract.Backend.load` names those of a Gluon zoo's network.
    """
    return {f"{layout.structural(layer_of(name))}.{name.rpartition('.')[2]}": array for name, array in weights.items()}


def _counted(layer: str, node: Node, layout: Layout, counts: Counter[tuple[str, str]]) -> str:
    """The name that Gluon makes up: a scope, the layer's kind, and how many of that kind came before it there."""
    if layout.scopes is None:
        return layer.replace(".", "_")
    scope = ""
    if stage := re.match(r"layer(\d+)\.", layer):
        scope = layout.scopes["downsample" in layer].format(stage[1])
    word = COUNTED.get(node.kind, node.kind)
    counts[scope, word] += 1
    return f"{scope}{word}{counts[scope, word] - 1}"
