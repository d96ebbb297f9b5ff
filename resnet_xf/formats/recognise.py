"""The plan of an exported graph: a named spec's where the two are equal, else its own with torchvision's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, Residual, Sequential, join
from resnet_xf.architecture.plan import FEATURES, Plan, explicit_spec, plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.zoo import REFERENCE, ZOO, dilated_specs
from resnet_xf.errors import SpecError
from resnet_xf.formats.steps import ACTIVATIONS, Step, all_steps, difference, matched, steps_of

GLUON_ZOOS = ("gluon", "gluoncv", "symbol", "insightface", "d2l")
SIDES = (224, 112, 96, 64, 32, 28, 299, 320, 331, 384, 448, 512, 256, 128, 160, 192, 48, 24, 16)
"""Heights and widths that are tried, in order, if a network takes images of one size alone."""

SMALL_STRIDE = 8
"""A network whose last map is no smaller than this part of the image is for images of 32×32."""

WORDS: dict[type[Node], str] = {
    nodes.Conv: "conv",
    nodes.Norm: "bn",
    nodes.GroupNorm: "gn",
    nodes.Pool: "pool",
    nodes.GlobalPool: "global_pool",
    nodes.Linear: "fc",
    nodes.Gate: "se",
    nodes.Add: "block",
    nodes.Dropout: "drop",
    nodes.RadixSum: "radix_sum",
    nodes.RadixSoftmax: "radix_softmax",
    **dict.fromkeys(ACTIVATIONS, "act"),
}
"""What torchvision and timm call layers inside a block, without their number."""

NUMBERED = ("conv", "bn", "gn", "act")
"""These have a number from 1 on, as ``conv1``; others only from the second on."""


@dataclass(frozen=True)
class _Block:
    """A residual block: its layers before, in and after the branches."""

    pre: list[Step]
    add: Step
    post: list[Step] = field(default_factory=list)
    before: list[Step] = field(default_factory=list)
    """Layers between the block before and this one that belong to neither."""

    @property
    def body(self) -> list[Step]:
        return self.add.branches[0]

    @property
    def shortcut(self) -> list[Step]:
        return self.add.branches[1]

    @property
    def channels(self) -> int:
        convs = [step.node for step in all_steps(self.body) if isinstance(step.node, nodes.Conv)]
        return convs[-1].out_channels if convs else 0

    @property
    def strides(self) -> bool:
        nodes_ = [step.node for step in [*all_steps([self.add]), *all_steps(self.before)]]
        return any(getattr(node, "stride", 1) > 1 for node in nodes_)


def named_plan(
    steps: list[Step], title: str, unused: set[str], spec: Spec | None = None
) -> tuple[Plan, dict[str, str]]:
    """Return the plan of a graph's steps, and by our names of arrays the graph's.

    Args:
        steps: as :func:`resnet_xf.formats.graph.read_graph` returns them.
        title: the name of a network that is in no list.
        unused: names of shifts that are 0 everywhere. Gluon's norms without a shift have such ones.
        spec: what the network must be; if None, it is looked for in the zoo.

    Raises:
        SpecError: if the layers do not fit each other, or are not those of ``spec``; the message names the first.
    """
    specs: list[Spec] = [spec] if spec else [*ZOO.values()]
    if spec is None and any(getattr(step.node, "dilation", 1) > 1 for step in all_steps(steps)):
        specs += dilated_specs()
    without = _without_shifts(steps, unused)
    for candidate in [without] if without == steps else [without, steps]:
        if (planned := _equal_plan(candidate, specs)) is not None:
            return planned, matched(steps_of(planned.root.children), candidate)
    if spec:
        raise SpecError(f"is not {spec.name}: {_first_difference(_fitted(spec, steps), steps)}")
    namer = _Namer(_common_prefix(steps))
    root, variables = namer.network(steps)
    problems: list[SpecError] = []
    name = re.sub(r"[^\w.\-]", "_", title)[:200] or "network"
    for side in SIDES:
        try:
            spec = explicit_spec(name, root, (side, side))
        except SpecError as error:
            problems.append(error)
            continue
        if side == SIDES[0] and _last_map(root, spec.in_channels, side) * SMALL_STRIDE >= side:
            spec = msgspec.structs.replace(spec, image_size=(32, 32))
        return Plan(spec, root), variables
    place, _, complaint = str(problems[0]).removeprefix("$.layers: ").partition(": ")
    raise SpecError(f"node {namer.nodes[place]!r}: {complaint}") if place in namer.nodes else problems[0]


def _last_map(root: Sequential, channels: int, side: int) -> int:
    """Return the height of the last map, before it becomes one pixel or a vector."""
    shapes = nodes.output_shapes(root, (1, channels, side, side)).values()
    return [shape[2] for shape in shapes if len(shape) == 4 and shape[2] > 1][-1]


def _without_shifts(steps: list[Step], unused: set[str]) -> list[Step]:
    """Return steps in which batch norms without scale have no shift either, if it is 0."""
    changed = []
    for step in steps:
        if isinstance(step.node, nodes.Norm) and not step.node.scale and step.variables.get("bias") in unused:
            variables = {word: name for word, name in step.variables.items() if word != "bias"}
            step = replace(step, node=replace(step.node, shift=False), variables=variables)
        changed.append(replace(step, branches=tuple(_without_shifts(branch, unused) for branch in step.branches)))
    return changed


def _equal_plan(steps: list[Step], specs: list[Spec]) -> Plan | None:
    """Return the plan that has equal steps, of several a listed one of Gluon's zoos; None if there is none."""
    blocks = sum(isinstance(step.node, nodes.Add) for step in all_steps(steps))
    found = []
    for spec in specs:
        if not isinstance(spec, ResNetSpec) or sum(stage.depth for stage in spec.stages) == blocks:
            planned = _fitted(spec, steps)
            if difference(steps_of(planned.root.children), steps) is None:
                found.append(planned)

    def rank(planned: Plan) -> tuple[bool, bool]:
        name = planned.spec.name
        return name not in ZOO, REFERENCE.get(re.sub(r"_os\d+$", "", name)) not in GLUON_ZOOS

    return min(found, key=rank, default=None)


def _fitted(spec: Spec, steps: list[Step]) -> Plan:
    """Return the plan of a spec with the graph's classes, channels, eps and momentum."""
    if not isinstance(spec, ResNetSpec):
        return plan(spec)
    layers = [step.node for step in all_steps(steps)]
    norms = {(node.eps, node.momentum) for node in layers if isinstance(node, nodes.Norm)}
    changes: dict[str, float] = {}
    if convs := [node for node in layers if isinstance(node, nodes.Conv)]:
        changes["in_channels"] = convs[0].in_channels
    if layers and isinstance(layers[-1], nodes.Linear):
        changes["num_classes"] = layers[-1].out_features
    elif tuple(layers[-2:]) == tuple(node for _, node in FEATURES):
        changes["num_classes"] = 0
    if len(norms) == 1:
        changes["norm_eps"], changes["norm_momentum"] = norms.pop()
    try:
        return plan(msgspec.structs.replace(spec, **changes))
    except SpecError:  # a number of the graph that no spec may have
        return plan(spec)


def _first_difference(planned: Plan, steps: list[Step]) -> str:
    ours, theirs = difference(steps_of(planned.root.children), steps) or (None, None)
    return f"{_words(ours, 'its')} stands where the graph has {_words(theirs, 'node')}"


def _words(step: Step | None, whose: str) -> str:
    return f"{whose} {step.name}, {step.node}" if step else "nothing"


def _common_prefix(steps: list[Step]) -> str:
    """Return the prefix of the network that most layers' names begin with, as ``resnetv1b_``."""
    names = [step.name for step in all_steps(steps)]
    first = Counter(name.partition("_")[0] for name in names).most_common(1)[0]
    return f"{first[0]}_" if first[1] > 0.8 * len(names) else ""


class _Namer:
    """Gives torchvision's names to a graph's steps, and collects the variables of the arrays."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.variables: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        """By our names of layers the graph's."""

    def network(self, steps: list[Step]) -> tuple[Sequential, dict[str, str]]:
        stem, blocks, head = _parts(steps)
        children = [*self.stem(stem)]
        stages: list[list[_Block]] = []
        for number, block in enumerate(blocks):
            before = blocks[number - 1] if number else None
            if before is None or block.channels != before.channels or block.strides or block.before:
                stages.append([])
            stages[-1].append(block)
        for number, stage in enumerate(stages, start=1):
            children.append((f"layer{number}", self.stage(stage, f"layer{number}")))
        taken = {name for name, _ in children}
        children += self.head(head, taken)
        return Sequential(tuple(children)), self.variables

    def stem(self, steps: list[Step]) -> Children:
        """Name the layers before the first block; several convolutions are one ``conv1``, as timm's deep stem."""
        convs = [number for number, step in enumerate(steps) if isinstance(step.node, nodes.Conv)]
        before, inner, after = steps, [], []
        if convs:
            before, inner, after = steps[: convs[0]], steps[convs[0] : convs[-1] + 1], steps[convs[-1] + 1 :]
        names = _Names()
        listed: list[tuple[str, Node]] = []
        for step in before:
            word = {nodes.Norm: "input_norm", nodes.Scale: "normalize"}.get(type(step.node)) or self.own_name(step)
            listed.append(self.child("", names.unique(word), step))
        if len(inner) == 1:
            listed.append(self.child("", names.unique("conv1"), inner[0]))
        elif inner:
            listed.append((names.unique("conv1"), self.numbered(inner, "conv1")))
        for step in after:
            is_max = isinstance(step.node, nodes.Pool) and step.node.operation == "max"
            listed.append(self.child("", names.unique("maxpool") if is_max else names.next(step), step))
        return tuple(listed)

    def stage(self, blocks: list[_Block], parent: str) -> Sequential:
        names = _Names()
        children: list[tuple[str, Node]] = []
        for number, block in enumerate(blocks):
            children += [self.child(parent, names.next(step), step) for step in block.before]
            children.append((str(number), self.block(block, join(parent, str(number)))))
        return Sequential(tuple(children))

    def block(self, block: _Block, parent: str) -> Residual:
        names = _Names(("add", "downsample"))
        pre, body, post = (
            tuple(self.child(parent, names.next(step), step) for step in steps)
            for steps in (block.pre, block.body, block.post)
        )
        shortcut = self.numbered(block.shortcut, join(parent, "downsample")) if block.shortcut else None
        return Residual(pre, body, shortcut, "preactivation" if block.pre else "input", post)

    def head(self, steps: list[Step], taken: Iterable[str]) -> Iterator[tuple[str, Node]]:
        names = _Names(taken)
        linears = [step for step in steps if isinstance(step.node, nodes.Linear)]
        kinds = {nodes.GlobalPool: "global_pool", nodes.Flatten: "flatten", nodes.Dropout: "drop"}
        seen_flat = False
        for step in steps:
            seen_flat |= isinstance(step.node, nodes.Flatten | nodes.Linear)
            if linears and step is linears[-1]:
                word = "fc"
            elif isinstance(step.node, nodes.Norm) and not seen_flat:
                word = "norm"
            elif isinstance(step.node, ACTIVATIONS) and not seen_flat:
                word = "act"
            else:
                word = kinds.get(type(step.node)) or self.own_name(step)
            yield self.child("", names.unique(word), step)

    def numbered(self, steps: list[Step], parent: str) -> Sequential:
        return Sequential(tuple(self.child(parent, str(number), step) for number, step in enumerate(steps)))

    def child(self, parent: str, name: str, step: Step) -> tuple[str, Node]:
        """Return a named node; branches inside it are named too."""
        dotted = join(parent, name)
        self.nodes[dotted] = step.name
        match step.node:
            case nodes.Gate():
                return name, nodes.Gate(self.gate(step.branches[0], dotted))
            case nodes.Add():
                return name, self.block(_Block([], step), dotted)
        for word, variable in step.variables.items():
            self.variables[join(dotted, word)] = variable
        return name, step.node

    def gate(self, steps: list[Step], parent: str) -> Children:
        names = _Names()
        children = []
        for number, step in enumerate(steps):
            last = number == len(steps) - 1 and step.node == nodes.Activation("sigmoid")
            if isinstance(step.node, nodes.Conv):
                name = names.counted("fc")
            elif isinstance(step.node, ACTIVATIONS):
                name = names.unique("gate" if last else "act")
            elif isinstance(step.node, nodes.GlobalPool):
                name = names.unique("pool")
            else:
                name = names.next(step)
            children.append(self.child(parent, name, step))
        return tuple(children)

    def own_name(self, step: Step) -> str:
        """Return the exporter's name of a layer, without the network's prefix."""
        name = re.sub(r"\W", "_", step.name.removeprefix(self.prefix).removesuffix("_fwd")).lstrip("_")[:80]
        return name if re.search(r"\d", name) else f"{name}0"


class _Names:
    """Names of siblings; each is given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.counts: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """Return a name, with a number if it is taken."""
        number, free = 2, name
        while free in self.taken:
            free, number = f"{name}_{number}", number + 1
        self.taken.add(free)
        return free

    def counted(self, word: str) -> str:
        """Return a word with the next number, from 1."""
        self.counts[word] += 1
        return self.unique(f"{word}{self.counts[word]}")

    def next(self, step: Step) -> str:
        """Return the name of a layer inside a block, by its kind."""
        word = WORDS.get(type(step.node), step.node.kind)
        if isinstance(step.node, nodes.Gate) and isinstance(step.branches[0][0].node, nodes.RadixSum):
            word = "attention"
        return self.counted(word) if word in NUMBERED else self.unique(word)


def _parts(steps: list[Step]) -> tuple[list[Step], list[_Block], list[Step]]:
    """Return the stem, the blocks and the head."""
    adds = [number for number, step in enumerate(steps) if isinstance(step.node, nodes.Add)]
    if not adds:
        last_map = max((n for n, step in enumerate(steps) if isinstance(step.node, nodes.Conv)), default=-1)
        return steps[: last_map + 1], [], steps[last_map + 1 :]
    preactivation = any(
        step.branches[0] and isinstance(step.branches[0][0].node, nodes.Norm) for step in steps if step.branches
    )
    stem, *later = (steps[before + 1 : after] for before, after in pairwise((-1, *adds, len(steps))))
    posts = [segment[:1] if segment and isinstance(segment[0].node, ACTIVATIONS) else [] for segment in later]
    *between, head = (stem, *(segment[len(post) :] for segment, post in zip(later, posts, strict=True)))
    blocks = []
    for number, segment, post in zip(adds, between, posts, strict=True):
        pre = _preactivation(segment, steps[number]) if preactivation else []
        blocks.append(_Block(pre, steps[number], post, segment[: len(segment) - len(pre)]))
    first = blocks[0]
    return first.before, [replace(first, before=[]), *blocks[1:]], head


def _preactivation(between: list[Step], add: Step) -> list[Step]:
    """Return the norm and the activation right before a projecting block that has none inside."""
    body, shortcut = add.branches
    if len(between) < 2 or not shortcut or not body or not isinstance(body[0].node, nodes.Conv):
        return []
    norm, activation = between[-2:]
    is_pair = isinstance(norm.node, nodes.Norm) and isinstance(activation.node, ACTIVATIONS)
    return [norm, activation] if is_pair else []
