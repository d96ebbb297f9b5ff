"""Which layer of one network is which of another's: by the names that a person gives, and a proposal for those."""

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
"""Layers that a complaint lists of each network."""


@dataclass(frozen=True)
class Layers:
    """What a network shows of its layers.

    Attributes:
        side: the network, in a word.
        tensors: the shapes of all its arrays, by name.
        seen: what each layer that ran showed, by name.
        runs: the layers in the order in which they end, each as often as it runs.
    """

    side: str
    tensors: Mapping[str, Shape]
    seen: Mapping[str, Observed]
    runs: Sequence[str]

    @cached_property
    def arrays(self) -> dict[str, dict[str, Shape]]:
        """Each layer that has weights: their shapes, by the last word of their names."""
        found: dict[str, dict[str, Shape]] = {}
        for name, shape in self.tensors.items():
            found.setdefault(layer_of(name), {})[name.rpartition(".")[2]] = shape
        return found

    @cached_property
    def order(self) -> list[str]:
        """The layers in the order in which they first end."""
        return list(dict.fromkeys(self.runs))

    @cached_property
    def at_work(self) -> list[str]:
        """The layers with weights that run, in that order."""
        return [name for name in self.order if name in self.arrays]

    @cached_property
    def holders(self) -> set[str]:
        """Every name that holds others."""
        return {layer_of(name) for name in self.order if name}

    def kind(self, name: str) -> tuple[object, ...]:
        """What a layer's weights say of it."""
        shapes = self.arrays[name]
        return "running_mean" in shapes, *sorted(shapes.values())

    def place(self, name: str) -> str | None:
        """The layer with weights that ended last before this one first did."""
        return next((n for n in reversed(self.order[: self.order.index(name)]) if n in self.arrays), None)

    def described(self, names: Sequence[str]) -> str:
        """The first few of those layers, with the shapes of their weights."""
        some = [f"{n or 'the whole'} {' '.join(map(str, self.arrays[n].values()))}" for n in names[:MOST]]
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        return f"{', '.join(some) or 'none'}{more} of {self.side}"


def partners(first: Layers, second: Layers, names: Mapping[str, str]) -> dict[str, str]:
    """For every layer of the second network that is compared, the first's.

    Those that ``names`` names, the whole, and those of equal name: if they have weights, or if they hold no others,
    give the same shape as often, and stand behind the same layer with weights. Layers that never run are left out.

    Raises:
        SpecError: for a name that no layer has, or that is given twice.
        WeightsError: for layers with weights that have no partner; it proposes some.
    """
    _check(first, second, names)
    found = {"": ""} | dict(names)
    taken = set(found.values())
    for name in second.arrays:
        if name not in found and name in first.arrays and name not in taken:
            found[name] = name
    lonely = (
        [name for name in first.at_work if name not in set(found.values())],
        [name for name in second.at_work if name not in found],
    )
    if any(lonely):
        raise WeightsError(
            f"layers with weights that have no partner: {first.described(lonely[0])}, "
            f"{second.described(lonely[1])}; name them, {second.side}'s to {first.side}'s{_proposal(first, second)}"
        )
    for name in second.order:
        free = name not in found and name not in taken
        if free and name in first.order and _alike(first, second, name, found):
            found[name] = name
    return found


def _check(first: Layers, second: Layers, names: Mapping[str, str]) -> None:
    """Complain of names that cannot be meant."""
    for side, given in ((second, list(names)), (first, list(names.values()))):
        known = {*side.order, *side.arrays}
        for name in given:
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.4)
                hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(sorted(known - {''}))}"
                raise SpecError(f"names: no layer of {side.side} that runs is called {name!r}{hint}")
    meant: dict[str, str] = {}
    for name, partner in names.items():
        if partner in meant:
            raise SpecError(f"names: {meant[partner]!r} and {name!r} are both named {partner!r}; name one")
        meant[partner] = name
        often = second.runs.count(name), first.runs.count(partner)
        if name not in second.arrays and often[0] != often[1]:
            raise SpecError(
                f"names: {name!r} runs {often[0]} times in {second.side} and {partner!r} {often[1]} times in "
                f"{first.side}; leave it out, for it has no weights"
            )


def _alike(first: Layers, second: Layers, name: str, found: Mapping[str, str]) -> bool:
    """Whether two layers without weights that bear one name may be the same."""
    if name in first.holders or name in second.holders or name in first.arrays:
        return False
    if first.seen[name].output_shape != second.seen[name].output_shape:
        return False
    place = second.place(name)
    same = first.place(name) == (None if place is None else found.get(place))
    return same and first.runs.count(name) == second.runs.count(name)


def proposed(first: Layers, second: Layers) -> dict[str, str]:
    """The second network's layers with weights and the first's, by order of running where kinds and shapes agree.

    The longest runs of layers that agree are matched first; then those that are left, each with the next of its kind.
    """
    ours, theirs = first.at_work, second.at_work
    kinds = [first.kind(name) for name in ours], [second.kind(name) for name in theirs]
    found: dict[str, str] = {}
    for block in SequenceMatcher(None, kinds[0], kinds[1], autojunk=False).get_matching_blocks():
        for step in range(block.size):
            found[theirs[block.b + step]] = ours[block.a + step]
    left = [name for name in ours if name not in set(found.values())]
    for name in theirs:
        if name not in found and (same := next((n for n in left if first.kind(n) == second.kind(name)), None)):
            found[name] = same
            left.remove(same)
    return {name: found[name] for name in theirs if name in found and name}


def _proposal(first: Layers, second: Layers) -> str:
    """The proposal as Python that can be pasted."""
    entries = {name: partner for name, partner in proposed(first, second).items() if name != partner}
    if not entries:
        return "; no two of them are alike"
    lines = "".join(f"    {name!r}: {partner!r},\n" for name, partner in entries.items())
    return f". By order of running, check that it is what you mean:\nnames={{\n{lines}}}"


def tensor_partners(first: Layers, second: Layers, layers: Mapping[str, str]) -> dict[str, str]:
    """For every array of those layers of the second network, its name in the first.

    The last words are the same, but for a single array that is called otherwise on either side and has one shape.
    """
    found = {}
    for name, partner in layers.items():
        own, other = second.arrays.get(name, {}), first.arrays.get(partner, {})
        odd, missing = [w for w in own if w not in other], [w for w in other if w not in own]
        alias = {}
        if len(odd) == len(missing) == 1 and own[odd[0]] == other[missing[0]]:
            alias = {odd[0]: missing[0]}
        for word in own:
            found[join(name, word)] = join(partner, alias.get(word, word))
    return found
