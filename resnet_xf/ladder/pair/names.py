"""Matches the layers of one network to those of another by the names that a user gives, and proposes such names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.nodes import join
from resnet_xf.architecture.rules import Shape
from resnet_xf.architecture.trace import Observed
from resnet_xf.errors import SpecError, WeightsError

MOST = 5
"""How many layers of each network an error message lists at most."""


@dataclass(frozen=True)
class Layers:
    """The layers of a network that has run once.

    Attributes:
        side: the network's name in messages.
        tensors: the shapes of all its weights, by name.
        seen: shapes and settings of each layer that ran, by name.
        runs: the layers in the order in which they finish, each as often as it runs.
    """

    side: str
    tensors: Mapping[str, Shape]
    seen: Mapping[str, Observed]
    runs: Sequence[str]

    @cached_property
    def arrays(self) -> dict[str, dict[str, Shape]]:
        """For each layer with weights: their shapes, by what follows the last dot of their names, such as ``bias``."""
        shapes: dict[str, dict[str, Shape]] = {}
        for name, shape in self.tensors.items():
            shapes.setdefault(layer_of(name), {})[name.rpartition(".")[2]] = shape
        return shapes

    @cached_property
    def order(self) -> list[str]:
        """The layers in the order in which they first finish."""
        return list(dict.fromkeys(self.runs))

    @cached_property
    def at_work(self) -> list[str]:
        """The layers with weights that run, in the order in which they first finish."""
        return [name for name in self.order if name in self.arrays]

    @cached_property
    def holders(self) -> set[str]:
        """The names of the layers that contain other layers."""
        return {layer_of(name) for name in self.order if name}

    def kind(self, name: str) -> tuple[object, ...]:
        """Return what two layers must share to match: whether they have running statistics, and weights' shapes."""
        shapes = self.arrays[name]
        return "running_mean" in shapes, *sorted(shapes.values())

    def place(self, name: str) -> str | None:
        """Return the last layer with weights that finished before this one first did; None if there is none."""
        return next((n for n in reversed(self.order[: self.order.index(name)]) if n in self.arrays), None)

    def described(self, names: Sequence[str]) -> str:
        """Return a text for a message: the first few of these layers with the shapes of their weights."""
        some = [f"{n or 'the whole'} {' '.join(map(str, self.arrays[n].values()))}" for n in names[:MOST]]
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        return f"{', '.join(some) or 'none'}{more} of {self.side}"


def partners(first: Layers, second: Layers, names: Mapping[str, str]) -> dict[str, str]:
    """Match the layers of the second network to those of the first.

    Layers match if ``names`` says so: it maps the second network's names to the first's. The whole networks (both named
    ``""``) match, and so do layers with weights and the same name. Layers without weights match if both are leaves with
    the same name, output shape, call count and preceding weighted layer.

    Returns:
        From each layer's name in the second network to its name in the first. Layers without a partner are left out.

    Raises:
        SpecError: if ``names`` has a layer that does not exist, or names one twice.
        WeightsError: if a layer with weights has no partner; the message proposes names.
    """
    _check(first, second, names)
    matched = {"": ""} | dict(names)
    taken = set(matched.values())
    for name in second.arrays:
        if name not in matched and name in first.arrays and name not in taken:
            matched[name] = name
    unmatched = (
        [name for name in first.at_work if name not in set(matched.values())],
        [name for name in second.at_work if name not in matched],
    )
    if any(unmatched):
        raise WeightsError(
            f"layers with weights that have no partner: {first.described(unmatched[0])}, "
            f"{second.described(unmatched[1])}; name them, {second.side}'s to {first.side}'s{_proposal(first, second)}"
        )
    for name in second.order:
        free = name not in matched and name not in taken
        if free and name in first.order and _alike(first, second, name, matched):
            matched[name] = name
    return matched


def _check(first: Layers, second: Layers, names: Mapping[str, str]) -> None:
    """Raise SpecError if ``names`` has an unknown layer, one twice, or layers that do not run equally often.

    ``names`` maps the second network's names to the first's. How often a layer with weights runs is not checked.
    """
    for side, requested in ((second, list(names)), (first, list(names.values()))):
        layers = {*side.order, *side.arrays}
        for name in requested:
            if name not in layers:
                near = get_close_matches(name, layers, n=3, cutoff=0.4)
                hint = (
                    f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(sorted(layers - {''}))}"
                )
                raise SpecError(f"names: no layer of {side.side} that runs is called {name!r}{hint}")
    used: dict[str, str] = {}
    for name, partner in names.items():
        if partner in used:
            raise SpecError(f"names: {used[partner]!r} and {name!r} are both named {partner!r}; name one")
        used[partner] = name
        calls = second.runs.count(name), first.runs.count(partner)
        if name not in second.arrays and calls[0] != calls[1]:
            raise SpecError(
                f"names: {name!r} runs {calls[0]} times in {second.side} and {partner!r} {calls[1]} times in "
                f"{first.side}; leave it out, for it has no weights"
            )


def _alike(first: Layers, second: Layers, name: str, matched: Mapping[str, str]) -> bool:
    """Return whether the layers called ``name`` in both networks match: see the rule of :func:`partners`.

    They have no weights. ``matched``: from the second network's names to the first's, for the layers matched so far.
    """
    if name in first.holders or name in second.holders or name in first.arrays:
        return False
    if first.seen[name].output_shape != second.seen[name].output_shape:
        return False
    place = second.place(name)
    same = first.place(name) == (None if place is None else matched.get(place))
    return same and first.runs.count(name) == second.runs.count(name)


def proposed(first: Layers, second: Layers) -> dict[str, str]:
    """Match layers with weights by the order in which they run, where kinds and shapes agree.

    The longest sequences of layers that agree are matched first, then each remaining layer with the next of its kind.

    Returns:
        From each matched layer's name in the second network to its name in the first.
    """
    ours, theirs = first.at_work, second.at_work
    kinds = [first.kind(name) for name in ours], [second.kind(name) for name in theirs]
    matched: dict[str, str] = {}
    for block in SequenceMatcher(None, kinds[0], kinds[1], autojunk=False).get_matching_blocks():
        for step in range(block.size):
            matched[theirs[block.b + step]] = ours[block.a + step]
    left = [name for name in ours if name not in set(matched.values())]
    for name in theirs:
        if name not in matched and (same := next((n for n in left if first.kind(n) == second.kind(name)), None)):
            matched[name] = same
            left.remove(same)
    return {name: matched[name] for name in theirs if name in matched and name}


def _proposal(first: Layers, second: Layers) -> str:
    """Return the end of an error message: the proposed ``names`` as Python code to paste, or that there are none."""
    entries = {name: partner for name, partner in proposed(first, second).items() if name != partner}
    if not entries:
        return "; no two of them are alike"
    return f". By order of running, check that it is what you mean: names={entries!r}"


def tensor_partners(first: Layers, second: Layers, layers: Mapping[str, str]) -> dict[str, str]:
    """Match the weights of matched layers: return from each name in the second network to the name in the first.

    ``layers`` does the same for layers (:func:`partners`). Weights match if the last words of their names are equal. If
    a layer has one weight left over in each network, and both have the same shape, these match too.
    """
    matched = {}
    for name, partner in layers.items():
        own, other = second.arrays.get(name, {}), first.arrays.get(partner, {})
        odd, missing = [w for w in own if w not in other], [w for w in other if w not in own]
        alias = {}
        if len(odd) == len(missing) == 1 and own[odd[0]] == other[missing[0]]:
            alias = {odd[0]: missing[0]}
        for word in own:
            matched[join(name, word)] = join(partner, alias.get(word, word))
    return matched
