"""A residual network as frozen data, which is read from and written to TOML and JSON.

A :class:`ResNetSpec` says it in a few fields; an :class:`ExplicitSpec` layer by layer, for any other network.

Names are timm's and torchvision's. What types cannot express is checked by :func:`resnet_xf.architecture.plan.plan`:
that groups divide channels, for example.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from resnet_xf.architecture.rules import Classes, Constant, Count
from resnet_xf.errors import SpecError
from resnet_xf.support.documents import MOST_BYTES, Document, Struct
from resnet_xf.support.files import open_regular, read_bytes, reading

Depth = Annotated[int, Meta(ge=1, le=10_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[\w.\-]+$(?!\n)")]
MOST_BLOCKS = 2_000
"""The most residual blocks in a network; He et al. (2016) train one of 600."""

Side = Annotated[int, Meta(ge=1, le=8192)]
Stride = Annotated[int, Meta(ge=1, le=8)]


class Stem(Struct, frozen=True, kw_only=True):
    """The layers before the first stage.

    Attributes:
        kind: ``conv7`` (one 7×7, He et al. 2015), ``conv3`` (one 3×3, for CIFAR) or ``deep`` (three 3×3,
            the ResNet-C stem of He et al. 2019).
        width: output channels of the stem.
        hidden: channels of the first two convolutions of a ``deep`` stem; half of ``width`` each if None.
        stride: of the first convolution.
        input_scale: a shift and a scale, two constants: the images become ``(x - shift) * scale``; None for neither.
        input_norm: a norm without scale and shift on the images, as in Gluon's v2 networks. ``shift``: a norm with a
            shift, as in the symbol API's networks.
        norm: a norm after the last convolution.
        activation: the network's activation after that.
        pool: a 3×3 max-pool of stride 2 at the end.
    """

    kind: Literal["conv7", "conv3", "deep"] = "conv7"
    width: Count = 64
    hidden: tuple[Count, Count] | None = None
    stride: Stride = 2
    input_scale: tuple[Constant, Constant] | None = None
    input_norm: bool | Literal["shift"] = False
    norm: bool = True
    activation: bool = True
    pool: bool = True


class Stage(Struct, frozen=True, kw_only=True):
    """A sequence of residual blocks of the same width.

    Attributes:
        depth: number of blocks.
        channels: output channels of each block.
        stride: of the first block; the others have 1.
        mid_channels: channels inside each block; ``channels`` if None, or a quarter of it in a bottleneck. In a pruned
            network, for each block a tuple of the output channels of its convolutions but the last.
        groups: of every 3×3 convolution.
        dilation: of every 3×3 convolution except the first one of the first block.
        first_dilation: of that convolution; if None the previous stage's dilation, as in timm and torchvision.
    """

    depth: Depth
    channels: Count
    stride: Stride = 1
    mid_channels: Count | tuple[tuple[Count, ...], ...] | None = None
    groups: Count = 1
    dilation: Stride = 1
    first_dilation: Stride | None = None


class SqueezeExcitation(Struct, frozen=True, kw_only=True):
    """A gate on the channels of each block's output, before the sum (Hu et al. 2018; timm's ``se``).

    Attributes:
        ratio: width of the gate's hidden layer as a share of the block's channels.
        divisor: the hidden width is rounded to a multiple of it, and is at least it.
        bias: whether the two 1×1 convolutions have a bias.
    """

    ratio: Annotated[float, Meta(gt=0, le=1)] = 1 / 16
    divisor: Count = 8
    bias: bool = True


class Spec:
    """A network as data: a :class:`ResNetSpec` or an :class:`ExplicitSpec`.

    Attributes:
        name: its name.
        in_channels: channels of an image.
        num_classes: outputs of the last layer; 0 for a network without a head, as in timm, whose outputs are the means
            of the last map.
        image_size: intended height and width in pixels.
    """

    __slots__ = ()

    name: str
    in_channels: int
    num_classes: int
    image_size: tuple[int, int]

    @classmethod
    def from_builtins(cls, data: Any) -> Spec:
        """Return the spec in plain data. Raises ``msgspec.ValidationError`` if it is malformed."""
        kind: type[Any] = ExplicitSpec if isinstance(data, dict) and "layers" in data else ResNetSpec
        spec: Spec = msgspec.convert(data, kind)
        return spec

    def differences(self, other: Spec) -> list[str]:
        """Return the names of the fields in which two specs differ."""
        fields = {field: None for spec in (self, other) for field in getattr(spec, "__struct_fields__", ())}
        return [field for field in fields if getattr(self, field, None) != getattr(other, field, None)]

    def to_toml(self) -> str:
        """Return the spec as TOML, without fields at their defaults."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return the spec as JSON, without fields at their defaults."""
        raise NotImplementedError


class ResNetSpec(Document, Spec, frozen=True, kw_only=True):
    """A residual network.

    Attributes:
        name: its name.
        in_channels: channels of an image.
        num_classes: outputs of the last layer; 0 for a network without a head, as in timm, whose outputs are the means
            of the last map.
        image_size: intended height and width in pixels; no layer depends on it but that of an ``embedding``.
        stem: the layers before the first stage.
        stages: the stages, in order.
        block: ``basic`` (two 3×3), ``bottleneck`` (1×1, 3×3, 1×1) or ``ir`` (two 3×3, the second with the stride; a
            norm at the beginning, and no activation after the sum; the unit of ArcFace, Deng et al. 2019).
        activation: ``relu``, or ``prelu`` with a slope for each channel, as MXNet computes it.
        preactivation: norm and ReLU before each convolution ("v2", He et al. 2016) and not after ("v1").
        stride_on: which layer of a bottleneck has the stride: ``1x1`` the first convolution (v1), ``3x3`` the second
            (v1.5), or ``avg_pool`` a 3×3 average pool after the second (ResNeSt; timm's ``avd``).
        radix: if not None, the 3×3 convolution of a bottleneck returns ``radix`` times the channels, and split
            attention adds them up (ResNeSt, Zhang et al. 2020).
        shortcut: a projecting shortcut is a strided 1×1 convolution, or ``avg_conv``: an average pool, then a 1×1
            convolution (ResNet-D; as timm's, also in a dilated stage). A block has one if its stride or its channels
            change the shape; otherwise the shortcut is the identity.
        project_first: the first block of every stage has a projecting shortcut, also if the shape stays.
        shortcut_norm: a norm after that convolution; if None, there is one unless the network is pre-activation.
        shortcut_from: what a projecting shortcut of a pre-activation block reads: the ``preactivation``
            (Gluon's zoo, timm) or the raw ``input`` (GluonCV's CIFAR networks).
        conv_bias: which convolutions have a bias.
        se: squeeze-excitation in every block, or None.
        head: ``pool`` (global average pool, linear layer) or ``embedding`` (norm, linear layer on all pixels, norm
            without scale; ArcFace). An ``embedding`` takes images of ``image_size`` alone.
        drop_rate: of a dropout before the linear layer; 0 for none.
        norm_eps: added to the variance.
        norm_momentum: share of the new value in the running statistics, as in PyTorch; Gluon's is 1 minus it.
        zero_init_last: the scale of the last norm in each block starts at 0 (Goyal et al. 2017).
    """

    title = "a spec"

    name: Name
    in_channels: Count = 3
    num_classes: Classes = 1000
    image_size: tuple[Side, Side] = (224, 224)
    stem: Stem = Stem()
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=100)]
    block: Literal["basic", "bottleneck", "ir"] = "basic"
    activation: Literal["relu", "prelu"] = "relu"
    preactivation: bool = False
    stride_on: Literal["1x1", "3x3", "avg_pool"] = "3x3"
    radix: Count | None = None
    shortcut: Literal["conv", "avg_conv"] = "conv"
    project_first: bool = False
    shortcut_norm: bool | None = None
    shortcut_from: Literal["preactivation", "input"] = "preactivation"
    conv_bias: tuple[Literal["stem", "1x1", "3x3", "shortcut"], ...] = ()
    se: SqueezeExcitation | None = None
    head: Literal["pool", "embedding"] = "pool"
    drop_rate: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    norm_eps: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    norm_momentum: Annotated[float, Meta(gt=0, le=1)] = 0.1
    zero_init_last: bool = False


class ExplicitSpec(Document, Spec, frozen=True, kw_only=True):
    """A network layer by layer, as it is read from an exported graph.

    Attributes:
        name: its name.
        in_channels: channels of an image.
        num_classes: outputs of the last layer; 0 for a network without a head, as in timm, whose outputs are the means
            of the last map.
        image_size: height and width in pixels; some networks take no other size.
        layers: each with its ``name``, its ``kind`` and its arguments, as :mod:`resnet_xf.architecture.explicit`
            reads them.
    """

    title = "a spec"

    name: Name
    in_channels: Count
    num_classes: Classes
    image_size: tuple[Side, Side]
    layers: tuple[dict[str, Any], ...]

    def __hash__(self) -> int:
        return hash(self.to_json())


SPEC_KEY = "resnet_xf.spec"
"""The key of the spec in the metadata of a safetensors file."""

MOST_HEADER = 2**23
"""The most bytes of a safetensors header; that of ResNet-152 has 80,000."""


def read_spec_file(path: str | Path) -> Spec:
    """Return the spec in a ``.toml`` or ``.json`` file, or in the metadata of a ``.safetensors`` file.

    Raises:
        SpecError: if the file cannot be read, or has no spec; the message names the file and the field.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        with reading(path, SpecError, "safetensors"), open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            header = msgspec.json.decode(file.read(min(size, MOST_HEADER)), type=dict[str, dict[str, Any]])
            if SPEC_KEY not in (metadata := header.get("__metadata__", {})):
                raise SpecError("holds no spec; `resnet-xf convert` writes a file that does")
            return read_spec(metadata[SPEC_KEY])
    text = b""
    if (most := MOST_BYTES.get(path.suffix.lower())) is not None:
        with reading(path, SpecError, "a spec"):
            text = read_bytes(path, most)
    return _kind_of(text).read(path)


def read_spec(text: str) -> Spec:
    """Return the spec in JSON.

    Raises:
        SpecError: with the path of the wrong field.
    """
    return _kind_of(text.encode()).from_json(text)


def _kind_of(text: bytes) -> type[ResNetSpec] | type[ExplicitSpec]:
    """Return the kind of the spec in TOML or JSON, which may be malformed."""
    return ExplicitSpec if re.search(rb"""^layers\s*=|^\[\[layers|"layers"\s*:""", text, re.M) else ResNetSpec
