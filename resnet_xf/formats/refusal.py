"""Why no network fits a file, and the way on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from resnet_xf.architecture.spec import Spec
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.gluon_symbol import symbol_path
from resnet_xf.formats.matching import FIRST, Match, matches

DEEPEST, MOST_PREFIXES, FEWEST_ARRAYS = 8, 16, 20
"""Prefixes of so many words are looked at, so many of them, if so many arrays have them: a file may have any names."""

FIRSTS = (*FIRST, "0.weight", "0.0.weight", "features.0.weight")
"""Names of a network's first convolution in several families."""


def refusal(file: CheckpointFile, nearest: Sequence[Match], target: Spec | None) -> str:
    """Return why no network fits, and what to do: an option, a file to bring, or a command.

    Args:
        file: the checkpoint.
        nearest: the networks that fit best, in order.
        target: what the network must be, or None.
    """
    best = nearest[0] if nearest else None
    trunks, _ = matches(file.tensors, target, None, part=True)
    under = _subnetworks(file) if not trunks or trunks[0].left_over else []
    if trunks and len(under) < 2 and not any(name in file.tensors for name in trunks[0].head):
        return _without_head(file, trunks[0])
    if under:
        options = " or ".join(f"--prefix {prefix}" for prefix in under)
        return (
            "has a network under a prefix, and other tensors beside it: in this command, or in `convert` if it has no "
            f"--prefix, choose the network with {options}"
        )
    way = f"name yours with --spec, by name or by a .toml file{or_graph(file)}"
    if best is None:
        names = ", ".join(list(file.tensors)[:3])
        return f"the names ({names}, …) follow no known layout; are these a ResNet's weights? If so, {way}"
    name = best.plan.spec.name if target else f"{best.plan.spec.name}, the nearest of all published networks ({way})"
    return f"does not hold the weights of {name}: {best.complaints(file.tensors)}"


def or_graph(file: CheckpointFile) -> str:
    """The end of a list of ways on: to bring the graph. Empty for a file beside which none is read."""
    if file.format != "params":
        return ""
    return f", or copy the export's -symbol.json beside it, as {symbol_path(file.path).name}"


def _without_head(file: CheckpointFile, best: Match) -> str:
    """The sentence for a file with all of a network but its head."""
    others = best.left_over
    beside = f"; beside it {len(others)} other tensors: {', '.join(others[:3])}" if others else ""
    return (
        f"holds the stem and the stages of {best.plan.spec.name}, but not its head: missing {', '.join(best.head)}"
        f"{beside}. `convert --backbone` takes the part before the head, and `train --new-head` draws a head"
    )


def _subnetworks(file: CheckpointFile) -> list[str]:
    """The prefixes under which a file has a network."""
    arrays: Counter[str] = Counter()
    for name in file.tensors:
        words = name.split(".")[:DEEPEST]
        arrays.update(".".join(words[:depth]) + "." for depth in range(1, len(words)))
    found = []
    for prefix, _ in [one for one in arrays.most_common(MOST_PREFIXES) if one[1] >= FEWEST_ARRAYS]:
        if not any(f"{prefix}{first}" in file.tensors for first in FIRSTS):
            continue
        tensors = {name.removeprefix(prefix): array for name, array in file.tensors.items() if name.startswith(prefix)}
        fits, nearest = matches(tensors, None, None)
        if fits or (nearest and nearest[0].has_trunk):
            found.append(prefix if fits else f"{prefix} --backbone")
    return found
