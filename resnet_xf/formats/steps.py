"""A network as steps: layers in the order in which they run, and branches that part and join again.

Both a plan and an exported graph become steps, so that the two can be compared operator by operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, Residual, join

ACTIVATIONS = (nodes.Activation, nodes.PReLU, nodes.LeakyReLU, nodes.Clip)


@dataclass(frozen=True)
class Step:
    """One layer, or branches that join.

    Attributes:
        name: the layer's name in the plan or in the graph.
        node: the layer; an ``Add`` or an empty ``Gate`` where branches join.
        variables: by the last word of an array, the name of the array.
        branches: the body and the shortcut of an ``Add``, or the body of a ``Gate``.
    """

    name: str
    node: Node
    variables: dict[str, str] = field(default_factory=dict)
    branches: tuple[list[Step], ...] = ()


def steps_of(children: Children, parent: str = "") -> list[Step]:
    """Return the steps of a plan's nodes, without first values. The names and the variables are the plan's."""
    steps: list[Step] = []
    for child, node in children:
        name = join(parent, child)
        if isinstance(node, Residual):
            pre, body, post = (steps_of(part, name) for part in (node.pre, node.body, node.post))
            shortcut = steps_of(node.downsample, name)
            before, body = (pre, body) if shortcut and node.shortcut_from == "preactivation" else ([], pre + body)
            steps += [*before, Step(join(name, "add"), nodes.Add(), branches=(body, shortcut)), *post]
        elif isinstance(node, nodes.Gate):
            steps.append(Step(name, nodes.Gate(()), branches=(steps_of(node.children, name),)))
        elif isinstance(node, nodes.Chain):
            steps += steps_of(node.children, name)
        else:
            arithmetic = replace(node, zero_init=False) if isinstance(node, nodes.Norm) else node
            steps.append(Step(name, arithmetic, {word: join(name, word) for word in node.arrays()}))
    return steps


def all_steps(steps: list[Step]) -> Iterator[Step]:
    """Yield every step, those in branches before the one that joins them."""
    for step in steps:
        for branch in step.branches:
            yield from all_steps(branch)
        yield step


def difference(ours: list[Step], theirs: list[Step]) -> tuple[Step | None, Step | None] | None:
    """Return the first pair of steps that differ in their layers' arguments; None in place of a missing one.

    None if all are equal.
    """
    for number in range(max(len(ours), len(theirs))):
        one, other = (steps[number] if number < len(steps) else None for steps in (ours, theirs))
        if one is None or other is None or one.node != other.node:
            return one, other
        for branch, its in zip(one.branches, other.branches, strict=True):
            if (apart := difference(branch, its)) is not None:
                return apart
    return None


def matched(ours: list[Step], theirs: list[Step]) -> dict[str, str]:
    """Return by our names of arrays theirs, of steps between which there is no :func:`difference`."""
    pairs = zip(all_steps(ours), all_steps(theirs), strict=True)
    return {one.variables[word]: other.variables[word] for one, other in pairs for word in one.variables}
