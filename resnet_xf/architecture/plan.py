"""From a spec to a plan: all decisions about the architecture, and the name and size of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from resnet_xf.architecture import nodes
from resnet_xf.architecture.explicit import decode, encode
from resnet_xf.architecture.nodes import Children, Conv, Node, Norm, Residual, Sequential, Taps, output_shapes, walk
from resnet_xf.architecture.spec import MOST_BLOCKS, ExplicitSpec, ResNetSpec, Spec, SqueezeExcitation, Stage, Stem
from resnet_xf.architecture.zoo import get_spec
from resnet_xf.errors import ShapeError, SpecError, refuse

RELU = nodes.Activation("relu")


@dataclass(frozen=True, slots=True)
class Plan:
    """A spec and its tree of nodes; a builder translates ``root``."""

    spec: Spec
    root: Sequential

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
        first = _block(spec, stage, channels, stage.stride, stage.first_dilation or dilation, where)
        others = [_block(spec, stage, stage.channels, 1, stage.dilation, where)] * (stage.depth - 1)
        blocks = tuple((str(number), block) for number, block in enumerate([first, *others]))
        layers.append((f"layer{index + 1}", Sequential(blocks)))
        channels, dilation = stage.channels, stage.dilation
    if spec.preactivation:
        layers += [("norm", _norm(spec, channels)), ("act", RELU)]
    head = nodes.Linear(channels, spec.num_classes)
    layers += [("global_pool", nodes.GlobalPool()), ("flatten", nodes.Flatten()), ("fc", head)]
    return Plan(spec, Sequential(tuple(layers)))


def explicit_spec(name: str, root: Sequential, image_size: tuple[int, int]) -> ExplicitSpec:
    """Return the spec of a network whose first convolution and last linear layer give its channels and classes.

    Raises:
        SpecError: if it has no such layers, or does not take images of this size.
    """
    leaves = [node for _, node in walk(root) if not node.named_children()]
    convs = [node for node in leaves if isinstance(node, nodes.Conv)]
    heads = [node for node in leaves if isinstance(node, nodes.Linear)]
    if not convs or not heads:
        raise SpecError(f"{name}: has no convolution or no linear layer")
    spec = ExplicitSpec(
        name=name,
        in_channels=convs[0].in_channels,
        num_classes=heads[-1].out_features,
        image_size=image_size,
        layers=encode(root.children),
    )
    _root(spec)
    return spec


def resized(spec: Spec, **sizes: int) -> Spec:
    """Return the spec with other ``in_channels`` and ``num_classes``.

    An explicit spec's first convolution and last linear layer are changed.

    Raises:
        SpecError: if layers between or after these do not fit.
    """
    if not isinstance(spec, ExplicitSpec):
        return msgspec.structs.replace(spec, **sizes)  # type: ignore[type-var]
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


def _root(spec: ExplicitSpec) -> Sequential:
    """Return the nodes of an explicit spec. Raises SpecError if they are malformed, or do not fit each other."""
    root = decode(spec.layers)
    shape = (1, spec.in_channels, *spec.image_size)
    try:
        output = output_shapes(root, shape)[""]
    except ShapeError as error:
        raise SpecError(f"$.layers: {error}") from None
    if output != (1, spec.num_classes):
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


def plan_block(spec: Spec | str, *, in_channels: int, channels: int, stride: int = 1, **fields: Any) -> Residual:
    """A single residual block of the kind in ``spec``: the first block of a stage with the given fields.

    ``plan_block("d2l_resnet18", in_channels=3, channels=6, stride=2)`` maps ``(N, 3, H, W)`` to ``(N, 6, H/2, W/2)``.
    Further fields are those of :class:`resnet_xf.architecture.spec.Stage`.

    Raises:
        SpecError: as :func:`plan`; the path of the block's fields is ``$.stages[0]``.
    """
    spec = get_spec(spec) if isinstance(spec, str) else spec
    if not isinstance(spec, ResNetSpec):
        raise SpecError(f"{spec.name}: is given layer by layer, and has no one kind of block")
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise SpecError(f"in_channels: expected a whole number of at least 1, got {in_channels!r}")
    try:
        stage = Stage(depth=1, channels=channels, stride=stride, **fields)
    except TypeError as error:
        raise SpecError(f"$.stages[0]: {error}") from None
    spec = _checked(msgspec.structs.replace(spec, stages=(stage,)))
    first_dilation = stage.first_dilation or stage.dilation
    return _block(spec, stage, in_channels, stride, first_dilation, where="$.stages[0]")


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
        "$.shortcut_from: only a pre-activation network can choose; leave it out or set preactivation = true": (
            spec.shortcut_from != "preactivation" and not spec.preactivation
        ),
        "$.conv_bias: a basic block has no 1x1 convolution; leave '1x1' out": (
            "1x1" in spec.conv_bias and not bottleneck
        ),
        "$.conv_bias: names a convolution twice; name each once": (len(set(spec.conv_bias)) < len(spec.conv_bias)),
    }
    refuse(SpecError, complaints)
    return spec


def _norm(spec: ResNetSpec, channels: int, *, scale: bool = True, shift: bool = True, zero_init: bool = False) -> Norm:
    return Norm(channels, spec.norm_eps, spec.norm_momentum, scale, shift, zero_init)


def _stem(stem: Stem, spec: ResNetSpec) -> Children:
    """The layers before the first stage."""
    bias = "stem" in spec.conv_bias
    layers: list[tuple[str, Node]] = []
    if stem.input_norm:
        layers.append(("input_norm", _norm(spec, spec.in_channels, scale=False, shift=False)))
    if stem.kind == "deep":
        first, second = stem.hidden or (max(1, stem.width // 2),) * 2
        widths = (spec.in_channels, first, second, stem.width)
        convs: list[Node] = []
        for index in range(3):
            stride = stem.stride if index == 0 else 1
            convs.append(Conv(widths[index], widths[index + 1], 3, stride, 1, bias=bias))
            if index < 2:
                convs += [_norm(spec, widths[index + 1]), RELU]
        layers.append(("conv1", Sequential(tuple((str(n), node) for n, node in enumerate(convs)))))
    else:
        kernel = 7 if stem.kind == "conv7" else 3
        conv = Conv(spec.in_channels, stem.width, kernel, stem.stride, kernel // 2, bias=bias)
        layers.append(("conv1", conv))
    if stem.norm:
        layers.append(("bn1", _norm(spec, stem.width)))
    if stem.activation:
        layers.append(("act1", RELU))
    if stem.pool:
        layers.append(("maxpool", nodes.Pool("max", kernel=3, stride=2, padding=1)))
    return tuple(layers)


def _block(spec: ResNetSpec, stage: Stage, in_channels: int, stride: int, first_dilation: int, where: str) -> Residual:
    """One residual block; ``where`` is the path of its stage in the spec."""
    convs = _convolutions(spec, stage, in_channels, stride, first_dilation, where)
    # A norm and a ReLU follow each convolution in v1 and precede it in v2. The last ReLU of v1 becomes `post`, the
    # first norm and ReLU of v2 become `pre`.
    layers: list[tuple[str, Node]] = []
    for number, conv in enumerate(convs, start=1):
        last = number == len(convs)
        width = conv.in_channels if spec.preactivation else conv.out_channels
        norm = _norm(spec, width, zero_init=spec.zero_init_last and last)
        rest = ((f"bn{number}", norm), (f"act{number}", RELU))
        layers += [*rest, (f"conv{number}", conv)] if spec.preactivation else [(f"conv{number}", conv), *rest]
    pre, body, post = (layers[:2], layers[2:], []) if spec.preactivation else ([], layers[:-1], layers[-1:])
    if spec.se:
        body.append(("se", _gate(spec.se, stage.channels)))
    projects = stride != 1 or in_channels != stage.channels
    return Residual(
        pre=tuple(pre),
        body=tuple(body),
        shortcut=_shortcut(spec, stage, in_channels, stride) if projects else None,
        shortcut_from=spec.shortcut_from if spec.preactivation else "input",
        post=tuple(post),
    )


def _convolutions(
    spec: ResNetSpec, stage: Stage, in_channels: int, stride: int, first_dilation: int, where: str
) -> tuple[Conv, ...]:
    """The block's two or three convolutions."""
    out, groups, biased = stage.channels, stage.groups, spec.conv_bias

    def conv3x3(channels: int, width: int, stride: int, dilation: int) -> Conv:
        for side, count in (("input", channels), ("output", width)):
            if count % groups:
                raise SpecError(f"{where}.groups: {groups} does not divide the {count} {side} channels of a 3x3")
        return Conv(channels, width, 3, stride, dilation, dilation, groups, bias="3x3" in biased)

    if spec.block == "basic":
        mid = stage.mid_channels or out
        return conv3x3(in_channels, mid, stride, first_dilation), conv3x3(mid, out, 1, stage.dilation)
    if stage.mid_channels is None and out % 4:
        raise SpecError(f"{where}.channels: a bottleneck's {out} is not a multiple of 4; set mid_channels as well")
    mid = stage.mid_channels or out // 4
    on_1x1, on_3x3 = (stride, 1) if spec.stride_on == "1x1" else (1, stride)
    return (
        Conv(in_channels, mid, 1, on_1x1, bias="1x1" in biased),
        conv3x3(mid, mid, on_3x3, first_dilation),
        Conv(mid, out, 1, bias="1x1" in biased),
    )


def _shortcut(spec: ResNetSpec, stage: Stage, in_channels: int, stride: int) -> Sequential:
    """A projecting shortcut. Its children have timm's names, where 0 is the pool of ``avg_conv``.

    In a dilated stage without stride, timm pools windows of 2 at every pixel, padded with zeros at the end.
    """
    channels = stage.channels
    layers: dict[str, Node] = {}
    first = 0
    if spec.shortcut == "avg_conv":
        if stride != 1:
            layers["0"] = nodes.Pool("avg", kernel=stride, stride=stride, ceil=True)
        elif stage.dilation > 1:
            layers |= {"pad": nodes.Pad(1), "0": nodes.Pool("avg", kernel=2, stride=1)}
        first, stride = 1, 1
    layers[f"{first}"] = Conv(in_channels, channels, 1, stride, bias="shortcut" in spec.conv_bias)
    if spec.shortcut_norm if spec.shortcut_norm is not None else not spec.preactivation:
        layers[f"{first + 1}"] = _norm(spec, channels)
    return Sequential(tuple(layers.items()))


def _gate(se: SqueezeExcitation, channels: int) -> nodes.Gate:
    """A squeeze-excitation gate; its hidden width is rounded as by timm's ``make_divisible``."""
    width = max(se.divisor, int(channels * se.ratio + se.divisor / 2) // se.divisor * se.divisor)
    return nodes.Gate(
        (
            ("pool", nodes.GlobalPool()),
            ("fc1", Conv(channels, width, 1, bias=se.bias)),
            ("act", RELU),
            ("fc2", Conv(width, channels, 1, bias=se.bias)),
            ("gate", nodes.Activation("sigmoid")),
        )
    )
