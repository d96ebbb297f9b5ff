"""What a person writes: a residual network as frozen data, read from and written to TOML and JSON.

The vocabulary is timm's and torchvision's. Types and ranges are checked here, by msgspec; what types cannot
say (groups divide channels, say) is checked by :func:`resnet_xf.plan.plan`. Either way the error begins
with the path of the field.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, inspect

from resnet_xf.errors import SpecError

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Depth = Annotated[int, Meta(ge=1, le=10_000)]
Stride = Annotated[int, Meta(ge=1, le=8)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Frozen, unknown fields refused; what equals its default is not written out."""


class Stem(_Struct, frozen=True, kw_only=True):
    """The layers before the first stage.

    Attributes:
        kind: ``conv7`` (one 7×7, He et al. 2015), ``conv3`` (one 3×3, for CIFAR) or ``deep`` (three 3×3,
            the ResNet-C stem of He et al. 2019).
        width: channels that leave the stem.
        hidden: channels of the first two convolutions of a ``deep`` stem; half of ``width`` each if None.
        stride: of the first convolution.
        input_norm: a norm without scale and shift on the images, as Gluon's v2 networks open with.
        norm: a norm after the last convolution.
        activation: a ReLU after that.
        pool: a 3×3 max-pool of stride 2 at the end.
    """

    kind: Literal["conv7", "conv3", "deep"] = "conv7"
    width: Count = 64
    hidden: tuple[Count, Count] | None = None
    stride: Stride = 2
    input_norm: bool = False
    norm: bool = True
    activation: bool = True
    pool: bool = True


class Stage(_Struct, frozen=True, kw_only=True):
    """A run of residual blocks of one width.

    Attributes:
        depth: number of blocks.
        channels: channels that leave each block.
        stride: of the first block; the others have 1.
        mid_channels: channels inside each block; if None ``channels``, or a quarter of it in a bottleneck.
        groups: of every 3×3 convolution.
        dilation: of every 3×3 convolution but the first block's first.
        first_dilation: of that one; the dilation of the stage before if None, as timm and torchvision have it.
    """

    depth: Depth
    channels: Count
    stride: Stride = 1
    mid_channels: Count | None = None
    groups: Count = 1
    dilation: Stride = 1
    first_dilation: Stride | None = None


class SqueezeExcitation(_Struct, frozen=True, kw_only=True):
    """A gate on the channels of each block's output, before the sum (Hu et al. 2018; timm's ``se``).

    Attributes:
        ratio: width of the gate's hidden layer as a share of the block's channels.
        divisor: that width is rounded to a multiple of this, and is at least this.
        bias: whether its two 1×1 convolutions carry one.
    """

    ratio: Annotated[float, Meta(gt=0, le=1)] = 1 / 16
    divisor: Count = 8
    bias: bool = True


class ResNetSpec(_Struct, frozen=True, kw_only=True):
    """A residual network.

    Attributes:
        name: what to call it.
        in_channels: channels of an image.
        num_classes: width of the last layer.
        image_size: height and width, in pixels, that the network is meant for; it shapes no layer.
        stem: the layers before the first stage.
        stages: the stages, in order.
        block: ``basic`` (two 3×3) or ``bottleneck`` (1×1, 3×3, 1×1).
        preactivation: norm and ReLU before each convolution ("v2", He et al. 2016) and not after ("v1").
        stride_on: which convolution of a strided bottleneck strides: ``1x1`` the first (v1), or ``3x3`` (v1.5).
        shortcut: a projecting shortcut is a strided 1×1 convolution, or ``avg_conv``: average-pool, then 1×1
            (ResNet-D; as timm's, also in a dilated stage). A block projects if its stride or its channels change
            the shape, else passes through.
        shortcut_norm: a norm after that convolution; if None, there is one unless the network is pre-activation.
        shortcut_from: what a projecting shortcut of a pre-activation block reads: the ``preactivation``
            (Gluon's zoo, timm) or the raw ``input`` (GluonCV's CIFAR networks).
        conv_bias: which convolutions carry a bias.
        se: squeeze-excitation in every block, or None.
        norm_eps: added to the variance.
        norm_momentum: share of the new value in the running statistics (PyTorch's sense; Gluon's is 1 minus it).
        zero_init_last: the last norm of each block begins at gamma 0 (Goyal et al. 2017).
    """

    name: Annotated[str, Meta(min_length=1, pattern=r"^[\w.\-]+$")]
    in_channels: Count = 3
    num_classes: Count = 1000
    image_size: tuple[Count, Count] = (224, 224)
    stem: Stem = Stem()
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=100)]
    block: Literal["basic", "bottleneck"] = "basic"
    preactivation: bool = False
    stride_on: Literal["1x1", "3x3"] = "3x3"
    shortcut: Literal["conv", "avg_conv"] = "conv"
    shortcut_norm: bool | None = None
    shortcut_from: Literal["preactivation", "input"] = "preactivation"
    conv_bias: tuple[Literal["stem", "1x1", "3x3", "shortcut"], ...] = ()
    se: SqueezeExcitation | None = None
    norm_eps: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    norm_momentum: Annotated[float, Meta(gt=0, le=1)] = 0.1
    zero_init_last: bool = False

    def to_toml(self) -> str:
        """The spec as TOML text; fields at their defaults are left out."""
        return msgspec.toml.encode(self).decode()

    def to_json(self) -> str:
        """The spec as JSON text; fields at their defaults are left out."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_toml(cls, text: str) -> ResNetSpec:
        """Read TOML text; raises SpecError with the path of the field that is wrong."""
        try:
            return msgspec.toml.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise SpecError(_path_first(error)) from None

    @classmethod
    def from_json(cls, text: str) -> ResNetSpec:
        """Read JSON text; raises SpecError with the path of the field that is wrong."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise SpecError(_path_first(error)) from None


def checked(spec: ResNetSpec) -> ResNetSpec:
    """The same spec, its types and ranges checked: constructing one in Python checks neither.

    Raises:
        SpecError: with the path of the field that is wrong.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(spec, enc_hook=_scalar), ResNetSpec)
    except (msgspec.MsgspecError, TypeError) as error:
        raise SpecError(_path_first(error)) from None


def _scalar(value: object) -> object:
    """NumPy's scalars as Python's; anything else is no part of a spec."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a spec holds no {type(value).__name__}, and {value!r} is one")


def read_spec(path: str | Path) -> ResNetSpec:
    """Read a spec from a ``.toml`` or ``.json`` file.

    Raises:
        SpecError: if the file cannot be read or is malformed; the message names file and field.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    readers = {".toml": ResNetSpec.from_toml, ".json": ResNetSpec.from_json}
    if suffix not in readers:
        raise SpecError(f"{path}: a spec is a .toml or .json file")
    try:
        return readers[suffix](path.read_text(encoding="utf-8-sig"))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from None


def _path_first(error: Exception) -> str:
    """Msgspec's message with its path in front and the choices behind: ``$.block: invalid … 'x'; one of …``."""
    what, _, path = str(error).rpartition(" - at ") if " - at `$" in str(error) else (str(error), "", "")
    path = path.strip("`") or "$"
    what = re.sub(r"`str` matching regex .*", "a name of letters, digits, '.', '_' and '-'", what)
    choices = _choices(path) if what.startswith(("Invalid enum", "Object contains unknown")) else ()
    hint = f"; expected one of {', '.join(map(str, choices))}" if choices else ""
    return f"{path}: {what[:1].lower()}{what[1:]}{hint}"


def _choices(path: str) -> tuple[object, ...]:
    """The literals, or else the names of the fields, that the place ``$.stages[0].…`` of a spec can hold."""
    places: list[inspect.Type] = [inspect.type_info(ResNetSpec)]
    for step in re.findall(r"\w+|\[", path.removeprefix("$")):
        if step.isdigit():
            continue
        places = [inner for place in places for inner in _inside(place, step)]
    literals = [value for place in places if isinstance(place, inspect.LiteralType) for value in place.values]
    fields = [f.name for place in places if isinstance(place, inspect.StructType) for f in place.fields]
    return tuple(literals or fields)


def _inside(place: inspect.Type, step: str) -> list[inspect.Type]:
    """The types one step down: a field of a struct, or (step ``[``) the items of an array."""
    found: list[inspect.Type] = []
    if isinstance(place, inspect.StructType):
        found = [field.type for field in place.fields if field.name == step]
    elif isinstance(place, inspect.VarTupleType):
        found = [place.item_type]
    return [option for one in found for option in (one.types if isinstance(one, inspect.UnionType) else [one])]
