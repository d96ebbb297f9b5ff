"""What a planted defect is, as data, and how the ladder is made to look at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

from msgspec.structs import replace

from helpers.sabotage import Saboteur
from resnet_xf import Report, ResNetSpec, SqueezeExcitation, get_backend, get_spec
from resnet_xf.architecture import nodes
from resnet_xf.architecture.plan import explicit_spec
from resnet_xf.architecture.spec import ExplicitSpec, Spec
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.ladder.climb import climb
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.report.report import Level
from resnet_xf.ladder.sides.live import Live

T = TypeVar("T")
BOTH = ("torch", "mxnet")


def slim(name: str, stages: int = 4, depth: int = 1, **fields: Any) -> ResNetSpec:
    """A named network with an eighth of its channels, which is as good to break and quicker to build."""
    spec = get_spec(name)
    kept = tuple(replace(stage, channels=stage.channels // 8, depth=depth) for stage in spec.stages[:stages])
    return replace(spec, stem=replace(spec.stem, width=8), stages=kept, num_classes=10, **fields)


def of_other_layers() -> ExplicitSpec:
    """A network of the layers that exported graphs have and named networks have not."""
    norm, relu = partial(nodes.Norm, eps=1e-5, momentum=0.1), ("act1", nodes.Activation("relu"))
    attention = nodes.Gate(
        (
            ("radix_sum", nodes.RadixSum(2)),
            ("pool", nodes.GlobalPool()),
            ("fc1", nodes.Conv(8, 4, 1, groups=2, bias=True)),
            ("act", nodes.LeakyReLU(0.2)),
            ("fc2", nodes.Conv(4, 16, 1, groups=2, bias=True)),
            ("radix_softmax", nodes.RadixSoftmax(2, 2)),
        )
    )
    split = ("conv1", nodes.Conv(8, 16, 3, 1, 1, groups=4)), ("bn1", norm(16)), relu, ("attention", attention)
    block = nodes.Residual((), (*split, ("radix_sum", nodes.RadixSum(2))), None, "input", ())
    layers = (
        ("normalize", nodes.Scale((0.25,), (2.0,))),
        ("conv1", nodes.Conv(3, 8, 3, 1, 1)),
        ("gn1", nodes.GroupNorm(8, 2, 1e-3)),
        ("leaky", nodes.LeakyReLU(0.1)),
        ("pool", nodes.Pool("avg", 3, 2, 1, counts_padding=True)),
        ("layer1", nodes.Sequential((("0", block),))),
        ("clip", nodes.Clip(-0.5, 0.75)),
        ("global_pool", nodes.GlobalPool()),
        ("flatten", nodes.Flatten()),
        ("drop", nodes.Dropout(0.4)),
        ("fc", nodes.Linear(8, 10)),
    )
    return explicit_spec("other_layers", nodes.Sequential(layers), (16, 16))


NETWORKS: dict[str, tuple[Spec, int]] = {
    "ResNet-18": (slim("resnet18", depth=2), 64),
    "ResNet-18 of two blocks": (slim("resnet18", stages=2), 32),
    "ResNet-18 v2": (slim("resnet18", preactivation=True), 64),
    "ResNet-50 v1": (slim("resnet50_v1"), 64),
    "the book's ResNet-18": (slim("d2l_resnet18", depth=2), 64),
    "SE-ResNet-D": (slim("resnet18", stages=2, shortcut="avg_conv", se=SqueezeExcitation()), 32),
    "two blocks that begin as the identity": (slim("resnet18", stages=2, zero_init_last=True), 32),
    "other layers": (of_other_layers(), 16),
}
"""By name, and the side of the images; all of them slim."""

SMALL = "ResNet-18 of two blocks"


@dataclass(frozen=True)
class Mutant:
    """One planted defect, and where the ladder must find it.

    Attributes:
        defect: what is planted.
        rung, where: the rung that must fail, and the layer or tensor that it must name.
        plant: a saboteur's fields, by which it is planted.
        network: one of ``NETWORKS``.
        sides: the backends in which it is planted, one at a time; none where it lies in what all of them are given.
        weights, images: what is given to both; else drawn, and photographs.
        level: that the ladder is climbed to.
    """

    defect: str
    rung: str
    where: str
    plant: Mapping[str, Any] = field(default_factory=dict)
    network: str = SMALL
    sides: tuple[str, ...] = BOTH
    weights: Callable[[Any], Weights] | None = None
    images: Callable[[Any], Array] | None = None
    level: Level = "standard"


class Remembering(Live):
    """A live side that measures everything once, and forgets its networks alone."""

    def take_each(self, keys: Sequence[str], kind: Any, measure: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """Return the remembered measurements of several layers or steps, or else new ones."""
        together = "\n".join(keys)
        if together not in self._memory:
            self._memory[together] = list(measure(self))
        return iter(self._memory[together])

    def release(self) -> None:
        """Forget the network."""
        self._networks.clear()


TRAINING = {"task", "shown", "after", "taught", "precisions"}
"""A saboteur's fields that touch nothing but training."""

INFERENCE = ("trace", "shapes/", "digests/", "repeated output", "output/", "gain", "inside/", "rounding")
"""How the keys of measurements begin for which nothing is trained."""


class Untrained(Live):
    """A live side whose defect lies in training alone. All else is measured of the same backend without a defect."""

    def __init__(self, twin: Remembering, backend: Any) -> None:
        super().__init__(twin.subject, backend)
        self.twin = twin

    def take(self, key: str, kind: Any, measure: Callable[[Any], T], *, large: bool) -> T:
        """Return the twin's measurement, or for training a new one."""
        take = self.twin.take if key.startswith(INFERENCE) else super().take
        return take(key, kind, measure, large=large)

    def take_each(self, keys: Sequence[str], kind: Any, measure: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """Return the twin's measurements of layers, or for training new ones."""
        take_each = self.twin.take_each if keys[0].startswith(INFERENCE) else super().take_each
        return take_each(keys, kind, measure)


@cache
def sound(
    network: str, weights: Callable[[Any], Weights] | None, images: Callable[[Any], Array] | None
) -> tuple[list[Remembering], list[str]]:
    """Both backends without a defect, which serve for all mutants of a network; and what the report says of its input."""
    spec, size = NETWORKS[network]
    subject, *words = subject_of(spec, (size, size), images and images(spec), weights and weights(spec), 0, None)
    # Accuracies are of a spec, and none are compared where it is left out.
    subject = dataclasses.replace(subject, outline=dataclasses.replace(subject.outline, spec=None))
    return [Remembering(subject, get_backend(name)) for name in BOTH], words


def climbed(mutant: Mutant, broken: str) -> Report:
    """The ladder's report on two networks, of which the one of the backend ``broken`` has the defect."""
    sides, words = sound(mutant.network, mutant.weights, mutant.images)
    subject = sides[0].subject
    planted: list[Live] = list(sides)
    if broken in BOTH:
        saboteur, place = Saboteur(broken, **mutant.plant), BOTH.index(broken)
        trains_alone = mutant.plant.keys() <= TRAINING
        planted[place] = Untrained(sides[place], saboteur) if trains_alone else Live(subject, saboteur)
    return climb(subject, planted, *words, level=mutant.level)
