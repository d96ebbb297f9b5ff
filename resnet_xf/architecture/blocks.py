"""The residual blocks of a spec: all decisions about their layers."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Conv, Node, Norm, Residual, Sequential
from resnet_xf.architecture.spec import ResNetSpec, SqueezeExcitation, Stage
from resnet_xf.errors import SpecError

RELU = nodes.Activation("relu")


def norm_of(
    spec: ResNetSpec, channels: int, *, scale: bool = True, shift: bool = True, zero_init: bool = False
) -> Norm:
    """A batch norm with the spec's eps and momentum."""
    return Norm(channels, spec.norm_eps, spec.norm_momentum, scale, shift, zero_init)


def activation_of(spec: ResNetSpec, channels: int) -> Node:
    """The spec's activation."""
    return nodes.PReLU(channels, float32=True) if spec.activation == "prelu" else RELU


def residual_block(
    spec: ResNetSpec, stage: Stage, in_channels: int, stride: int, first_dilation: int, where: str, number: int = 0
) -> Residual:
    """One residual block: of its stage, whose path in the spec is ``where``, that of this number."""
    convs = _convolutions(spec, stage, in_channels, stride, first_dilation, where, number)
    if spec.block == "ir":
        pre, body, post = _arcface_unit(spec, *convs)
    else:
        pre, body, post = _unit(spec, convs, stride)
    if spec.se:
        body = (*body, ("se", _gate(spec.se, stage.channels, spec)))
    projects = stride != 1 or in_channels != stage.channels or (spec.project_first and number == 0)
    return Residual(
        pre=pre,
        body=body,
        shortcut=_shortcut(spec, stage, in_channels, stride) if projects else None,
        shortcut_from=spec.shortcut_from if spec.preactivation else "input",
        post=post,
    )


def _unit(spec: ResNetSpec, convs: Sequence[Conv], stride: int) -> tuple[Children, Children, Children]:
    """What stands before, in and after a basic block's or bottleneck's branches.

    A norm and an activation follow each convolution in v1 and precede it in v2. The last activation of v1 stands
    after the sum, the first norm and activation of v2 stand before the branches.
    """
    layers: list[tuple[str, Node]] = []
    for number, conv in enumerate(convs, start=1):
        last = number == len(convs)
        width = conv.in_channels if spec.preactivation else conv.out_channels
        norm = norm_of(spec, width, zero_init=spec.zero_init_last and last)
        rest = ((f"bn{number}", norm), (f"act{number}", activation_of(spec, width)))
        layers += [*rest, (f"conv{number}", conv)] if spec.preactivation else [(f"conv{number}", conv), *rest]
        if number == 2 and spec.radix:
            layers += _split_attention(spec, spec.radix, conv)
        if number == 2 and spec.stride_on == "avg_pool" and stride > 1:
            layers.append(("pool", nodes.Pool("avg", kernel=3, stride=stride, padding=1, counts_padding=True)))
    if spec.preactivation:
        return tuple(layers[:2]), tuple(layers[2:]), ()
    return (), tuple(layers[:-1]), tuple(layers[-1:])


def _arcface_unit(spec: ResNetSpec, first: Conv, second: Conv) -> tuple[Children, Children, Children]:
    """What stands before, in and after the branches of an ``ir`` block."""
    body: Children = (
        ("bn1", norm_of(spec, first.in_channels)),
        ("conv1", first),
        ("bn2", norm_of(spec, first.out_channels)),
        ("act1", activation_of(spec, first.out_channels)),
        ("conv2", second),
        ("bn3", norm_of(spec, second.out_channels, zero_init=spec.zero_init_last)),
    )
    return (), body, ()


def _split_attention(spec: ResNetSpec, radix: int, conv: Conv) -> Children:
    """The layers after the 3×3 convolution of a ResNeSt's block; the gate's hidden width is timm's."""
    channels = conv.out_channels // radix
    width = max(32, conv.out_channels // 4)
    groups = conv.groups // radix
    attention = nodes.Gate(
        (
            ("radix_sum", nodes.RadixSum(radix)),
            ("pool", nodes.GlobalPool()),
            ("fc1", Conv(channels, width, 1, groups=groups, bias=True)),
            ("bn1", norm_of(spec, width)),
            ("act", activation_of(spec, width)),
            ("fc2", Conv(width, conv.out_channels, 1, groups=groups, bias=True)),
            ("radix_softmax", nodes.RadixSoftmax(radix, groups)),
        )
    )
    return ("attention", attention), ("radix_sum", nodes.RadixSum(radix))


def _convolutions(
    spec: ResNetSpec, stage: Stage, in_channels: int, stride: int, first_dilation: int, where: str, number: int
) -> tuple[Conv, ...]:
    """The two or three convolutions of a stage's block of this number."""
    out, groups, biased = stage.channels, stage.groups, spec.conv_bias

    def conv3x3(channels: int, width: int, stride: int, dilation: int, radix: int = 1) -> Conv:
        for side, count in (("input", channels), ("output", width)):
            if count % groups:
                raise SpecError(f"{where}.groups: {groups} does not divide the {count} {side} channels of a 3x3")
        return Conv(channels, width * radix, 3, stride, dilation, dilation, groups * radix, bias="3x3" in biased)

    bottleneck = spec.block == "bottleneck"
    if stage.mid_channels is None and bottleneck and out % 4:
        raise SpecError(f"{where}.channels: a bottleneck's {out} is not a multiple of 4; set mid_channels as well")
    if isinstance(stage.mid_channels, tuple):
        mids = stage.mid_channels[number]
    else:
        mids = (stage.mid_channels or (out // 4 if bottleneck else out),) * 2
    if not bottleneck:
        on_first, on_second = (1, stride) if spec.block == "ir" else (stride, 1)
        first = conv3x3(in_channels, mids[0], on_first, first_dilation)
        return first, conv3x3(mids[0], out, on_second, stage.dilation)
    return (
        Conv(in_channels, mids[0], 1, stride if spec.stride_on == "1x1" else 1, bias="1x1" in biased),
        conv3x3(mids[0], mids[1], stride if spec.stride_on == "3x3" else 1, first_dilation, spec.radix or 1),
        Conv(mids[1], out, 1, bias="1x1" in biased),
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
        layers[f"{first + 1}"] = norm_of(spec, channels)
    return Sequential(tuple(layers.items()))


def _gate(se: SqueezeExcitation, channels: int, spec: ResNetSpec) -> nodes.Gate:
    """A squeeze-excitation gate; its hidden width is rounded as by timm's ``make_divisible``."""
    width = max(se.divisor, int(channels * se.ratio + se.divisor / 2) // se.divisor * se.divisor)
    return nodes.Gate(
        (
            ("pool", nodes.GlobalPool()),
            ("fc1", Conv(channels, width, 1, bias=se.bias)),
            ("act", activation_of(spec, width)),
            ("fc2", Conv(width, channels, 1, bias=se.bias)),
            ("gate", nodes.Activation("sigmoid")),
        )
    )
