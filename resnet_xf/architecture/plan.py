"""From a spec to a plan: all decisions about the architecture, and the name and size of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import msgspec

from resnet_xf.architecture import nodes
from resnet_xf.architecture.blocks import activation_of, norm_of, residual_block
from resnet_xf.architecture.explicit import decode, encode
from resnet_xf.architecture.nodes import Children, Conv, Node, Norm, Residual, Sequential, Taps, output_shapes, walk
from resnet_xf.architecture.spec import MOST_BLOCKS, ExplicitSpec, ResNetSpec, Spec, Stage, Stem
from resnet_xf.architecture.zoo import get_spec
from resnet_xf.errors import ShapeError, SpecError, refuse

FEATURES: Children = (("global_pool", nodes.GlobalPool()), ("flatten", nodes.Flatten()))
"""The last layers of a network without a head."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A spec and its tree of nodes; a builder translates ``root``."""

    spec: Spec
    root: Sequential

    @property
    def input_scale(self) -> nodes.Scale | None:
        """The first layer, if it is a constant scale and shift of the images' pixels."""
        first = next(node for _, node in walk(self.root) if not node.named_children())
        return first if isinstance(first, nodes.Scale) else None

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the last layer is a softmax, so that the outputs are probabilities."""
        return self.root.children[-1][1] == nodes.Activation("softmax")

    @property
    def gives_probabilities(self) -> bool:
        """Whether the last layer is a softmax, or a sigmoid, which gives each class a probability of its own."""
        return self.root.children[-1][1] in (nodes.Activation("softmax"), nodes.Activation("sigmoid"))

    @property
    def outputs(self) -> int:
        """Values in the output for an image: the number of classes, or of channels in a network without a head."""
        shape = (1, self.spec.in_channels, *self.spec.image_size)
        return self.spec.num_classes or output_shapes(self.root, shape)[""][1]

    @property
    def opens_with_norm(self) -> bool:
        """Whether the first layer with arrays is a batch norm without scale and shift, so that it needs no gradient."""
        first = next(node for _, node in walk(self.root) if node.arrays())
        return isinstance(first, Norm) and not (first.scale or first.shift)


def plan(spec: Plan | Spec | str) -> Plan:
    """The plan of a spec, of a name in the zoo, or of a spec's file given by its path; a plan is returned as it is.

    Raises:
        SpecError: if there is no such spec, or a field is wrong; the message then begins with the field's path, as
            ``$.stages[1].groups``.
    """
    if isinstance(spec, Plan):
        return spec
    if isinstance(spec, str):
        name, spec = spec, get_spec(spec)
        try:
            return plan(spec)
        except SpecError as error:  # each field of the file is valid, but two contradict each other
            raise SpecError(f"{name}: {error}") from None
    if isinstance(spec, ExplicitSpec):
        return Plan(spec, _root(spec.checked()))
    spec = _checked(spec)
    layers = list(_stem(spec.stem, spec))
    channels, dilation = spec.stem.width, 1
    for index, stage in enumerate(spec.stages):
        where = f"$.stages[{index}]"
        first = residual_block(spec, stage, channels, stage.stride, stage.first_dilation or dilation, where)
        if isinstance(stage.mid_channels, tuple):
            others = [
                residual_block(spec, stage, stage.channels, 1, stage.dilation, where, n) for n in range(1, stage.depth)
            ]
        else:
            others = [residual_block(spec, stage, stage.channels, 1, stage.dilation, where, 1)] * (stage.depth - 1)
        blocks = tuple((str(number), block) for number, block in enumerate([first, *others]))
        layers.append((f"layer{index + 1}", Sequential(blocks)))
        channels, dilation = stage.channels, stage.dilation
    if spec.preactivation:
        layers += [("norm", norm_of(spec, channels)), ("act", activation_of(spec, channels))]
    return Plan(spec, Sequential((*layers, *_head(spec, layers, channels))))


def explicit_spec(name: str, root: Sequential, image_size: tuple[int, int]) -> ExplicitSpec:
    """Return the spec of a network whose first convolution and last linear layer give its channels and classes.

    Without a linear layer it has no head.

    Raises:
        SpecError: if it has no convolution, or does not take images of this size.
    """
    leaves = [node for _, node in walk(root) if not node.named_children()]
    convs = [node for node in leaves if isinstance(node, nodes.Conv)]
    heads = [node for node in leaves if isinstance(node, nodes.Linear)]
    if not convs:
        raise SpecError(f"{name}: has no convolution")
    spec = ExplicitSpec(
        name=name,
        in_channels=convs[0].in_channels,
        num_classes=heads[-1].out_features if heads else 0,
        image_size=image_size,
        layers=encode(root.children),
    )
    _root(spec)
    return spec


def resized(spec: Spec, **sizes: int) -> Spec:
    """Return the spec with other ``in_channels`` and ``num_classes``.

    An explicit spec's first convolution and last linear layer are changed; one without a head gets ``fc``.

    Raises:
        SpecError: if layers between or after these do not fit.
    """
    if not isinstance(spec, ExplicitSpec):
        return msgspec.structs.replace(spec, **sizes)  # type: ignore[type-var]
    if sizes.get("num_classes") and not spec.num_classes:
        linear = nodes.Linear(Plan(spec, _root(spec)).outputs, sizes["num_classes"])
        spec = msgspec.structs.replace(spec, layers=(*spec.layers, *encode((("fc", linear),))))
    layers = list(spec.layers)
    changes = {"in_channels": ("Conv", "in_channels", 0), "num_classes": ("Linear", "out_features", -1)}
    for size, value in sizes.items():
        kind, argument, place = changes[size]
        places = [number for number, layer in enumerate(layers) if layer.get("kind") == kind]
        if not places:
            raise SpecError(f"$.layers: has no {kind} outside its blocks, so {size} cannot change")
        layers[places[place]] = layers[places[place]] | {argument: value}
        for number in range(places[0] if size == "in_channels" else 0):  # a batch norm on the images
            layers[number] = layers[number] | ({"channels": value} if "channels" in layers[number] else {})
    changed = msgspec.structs.replace(spec, layers=tuple(layers), **sizes)
    _root(changed)
    return changed


def headless(network: Plan | Spec | str) -> Plan:
    """Return a network without its head: its spec has 0 classes, and its outputs are the means of the last map."""
    planned = plan(network)
    if not isinstance(planned.spec, ExplicitSpec):
        return plan(msgspec.structs.replace(planned.spec, num_classes=0))  # type: ignore[type-var]
    children = planned.root.children
    blocks = [n for n, (name, node) in enumerate(children) if any(isinstance(one, Residual) for _, one in walk(node))]
    last = max(blocks, default=-1) + 1
    ends = Norm | nodes.GroupNorm | nodes.Activation | nodes.LeakyReLU | nodes.PReLU | nodes.Clip
    while last < len(children) and isinstance(children[last][1], ends):
        last += 1
    return plan(explicit_spec(planned.spec.name, Sequential((*children[:last], *FEATURES)), planned.spec.image_size))


def without_softmax(planned: Plan) -> Plan:
    """Return a plan without the softmax at its end; one that ends in another layer is returned as it is."""
    if not planned.ends_in_softmax:
        return planned
    root = Sequential(planned.root.children[:-1])
    return plan(explicit_spec(planned.spec.name, root, planned.spec.image_size))


def _root(spec: ExplicitSpec) -> Sequential:
    """Return the nodes of an explicit spec. Raises SpecError if they are malformed, or do not fit each other."""
    root = decode(spec.layers)
    shape = (1, spec.in_channels, *spec.image_size)
    try:
        output = output_shapes(root, shape)[""]
    except ShapeError as error:
        raise SpecError(f"$.layers: {error}") from None
    if output != (1, spec.num_classes or output[-1]):
        raise SpecError(f"$.num_classes: the layers map {shape} to {output}, expected {(1, spec.num_classes)}")
    return root


def root_of(network: Plan | Spec | str | Node) -> Node:
    """The root node of a network's plan; a single node is returned as it is.

    Raises:
        SpecError: as :func:`plan`, and for anything else.
    """
    if isinstance(network, Plan | Spec | str):
        return plan(network).root
    if not isinstance(network, Node):
        raise SpecError(f"expected a plan, a spec, the name of one or a node, got {network!r}")
    return network


def plan_features(spec: Spec | str, out: Sequence[str] | None = None) -> Taps:
    """A network without its head, as a backbone. Its output is the list of the feature maps of ``out``.

    Args:
        spec: a spec, the name of one, or the path of its file.
        out: names from ``trace(spec, …, top=True)``; every stage (``layer1``, ``layer2``, …) if None. The maps are in
            the network's order.

    Raises:
        SpecError: as :func:`plan`, and if there is no layer of that name.
    """
    layers = plan(spec).root.children
    names = [name for name, _ in layers]
    out = (out,) if isinstance(out, str) else out
    chosen = tuple(out) if out is not None else tuple(name for name in names if name.startswith("layer"))
    missing = [name for name in chosen if name not in names]
    if missing or not chosen:
        raise SpecError(
            f"out: no layer is called {', '.join(missing) or '(none given)'}; choose from {', '.join(names)}"
        )
    if len(set(chosen)) < len(chosen):
        raise SpecError(f"out: names a layer twice: {', '.join(chosen)}")
    last = max(names.index(name) for name in chosen)
    return Taps(layers[: last + 1], tuple(sorted(chosen, key=names.index)))


def plan_block(spec: Plan | Spec | str, *, in_channels: int, channels: int, stride: int = 1, **fields: Any) -> Residual:
    """A single residual block of the kind in ``spec``: the first block of a stage with the given fields.

    ``plan_block("d2l_resnet18", in_channels=3, channels=6, stride=2)`` maps ``(N, 3, H, W)`` to ``(N, 6, H/2, W/2)``.
    Further fields are those of :class:`resnet_xf.architecture.spec.Stage`.

    Raises:
        SpecError: as :func:`plan`; the path of the block's fields is ``$.stages[0]``.
    """
    spec = plan(spec).spec
    if not isinstance(spec, ResNetSpec):
        raise SpecError(f"{spec.name}: is given layer by layer, and has no one kind of block")
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise SpecError(f"in_channels: expected a whole number of at least 1, got {in_channels!r}")
    try:
        stage = Stage(depth=1, channels=channels, stride=stride, **fields)
    except TypeError as error:
        raise SpecError(f"$.stages[0]: {error}") from None
    spec = _checked(msgspec.structs.replace(spec, stages=(stage,)))
    stage = spec.stages[0]  # checked, so that lists are tuples
    first_dilation = stage.first_dilation or stage.dilation
    return residual_block(spec, stage, in_channels, stage.stride, first_dilation, where="$.stages[0]")


def _checked(spec: Spec) -> ResNetSpec:
    """Return the spec; raise SpecError for fields that contradict each other, which types cannot rule out."""
    if not isinstance(spec, ResNetSpec):
        raise SpecError(f"expected a spec or the name of one, got a {type(spec).__name__}")
    spec = spec.checked()
    bottleneck = spec.block == "bottleneck"
    blocks = sum(stage.depth for stage in spec.stages)
    complaints = {
        f"$.stages: have {blocks:,} blocks together; at most {MOST_BLOCKS:,} are allowed": blocks > MOST_BLOCKS,
        "$.stem.hidden: only a stem of kind 'deep' has hidden channels; leave it out": (
            spec.stem.hidden is not None and spec.stem.kind != "deep"
        ),
        "$.stride_on: only a bottleneck has a 1x1 to put the stride on; leave it out or set block = "
        "'bottleneck'": spec.stride_on == "1x1" and not bottleneck,
        "$.stride_on: only a bottleneck has the pool; leave it out or set block = 'bottleneck'": (
            spec.stride_on == "avg_pool" and not bottleneck
        ),
        "$.radix: only a bottleneck of a network without pre-activation has split attention": (
            spec.radix is not None and (spec.preactivation or not bottleneck)
        ),
        "$.preactivation: an 'ir' block has one norm before its first convolution; leave it out": (
            spec.preactivation and spec.block == "ir"
        ),
        "$.shortcut_from: only a pre-activation network can choose; leave it out or set preactivation = true": (
            spec.shortcut_from != "preactivation" and not spec.preactivation
        ),
        "$.conv_bias: a basic block has no 1x1 convolution; leave '1x1' out": (
            "1x1" in spec.conv_bias and not bottleneck
        ),
        "$.conv_bias: names a convolution twice; name each once": (len(set(spec.conv_bias)) < len(spec.conv_bias)),
    }
    for index, stage in enumerate(spec.stages):
        if isinstance(mids := stage.mid_channels, tuple):
            count = 2 if bottleneck else 1
            complaints[
                f"$.stages[{index}].mid_channels: expected a list of {count} for each of {stage.depth} blocks"
            ] = len(mids) != stage.depth or any(len(widths) != count for widths in mids)
    refuse(SpecError, complaints)
    return spec


def _head(spec: ResNetSpec, layers: Sequence[tuple[str, Node]], channels: int) -> Children:
    """The layers after the last stage, which come after ``layers``."""
    drop: Children = (("drop", nodes.Dropout(spec.drop_rate)),) if spec.drop_rate else ()
    flatten: Children = (("flatten", nodes.Flatten()),)
    if spec.num_classes == 0:
        return FEATURES
    if spec.head == "pool":
        return (*FEATURES, *drop, ("fc", nodes.Linear(channels, spec.num_classes)))
    try:
        shape = output_shapes(Sequential(tuple(layers)), (1, spec.in_channels, *spec.image_size))[""]
    except ShapeError as error:
        raise SpecError(f"$.image_size: {error}") from None
    norm = replace(norm_of(spec, spec.num_classes, scale=False), axes=2)
    linear = nodes.Linear(prod(shape), spec.num_classes)
    return (("norm", norm_of(spec, channels)), *drop, *flatten, ("fc", linear), ("features", norm))


def _stem(stem: Stem, spec: ResNetSpec) -> Children:
    """The layers before the first stage."""
    bias = "stem" in spec.conv_bias
    layers: list[tuple[str, Node]] = []
    if stem.input_scale:
        shift, scale = stem.input_scale
        layers.append(("normalize", nodes.Scale((shift,), (scale,))))
    if stem.input_norm:
        layers.append(("input_norm", norm_of(spec, spec.in_channels, scale=False, shift=stem.input_norm == "shift")))
    if stem.kind == "deep":
        first, second = stem.hidden or (max(1, stem.width // 2),) * 2
        widths = (spec.in_channels, first, second, stem.width)
        convs: list[Node] = []
        for index in range(3):
            stride = stem.stride if index == 0 else 1
            convs.append(Conv(widths[index], widths[index + 1], 3, stride, 1, bias=bias))
            if index < 2:
                convs += [norm_of(spec, widths[index + 1]), activation_of(spec, widths[index + 1])]
        layers.append(("conv1", Sequential(tuple((str(n), node) for n, node in enumerate(convs)))))
    else:
        kernel = 7 if stem.kind == "conv7" else 3
        conv = Conv(spec.in_channels, stem.width, kernel, stem.stride, kernel // 2, bias=bias)
        layers.append(("conv1", conv))
    if stem.norm:
        layers.append(("bn1", norm_of(spec, stem.width)))
    if stem.activation:
        layers.append(("act1", activation_of(spec, stem.width)))
    if stem.pool:
        layers.append(("maxpool", nodes.Pool("max", kernel=3, stride=2, padding=1)))
    return tuple(layers)
