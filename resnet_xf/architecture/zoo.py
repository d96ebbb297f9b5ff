"""The named specs, as data. Each is one published network; a test compares the two."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from resnet_xf.architecture.pruned import PRUNED
from resnet_xf.architecture.spec import ResNetSpec, Spec, SqueezeExcitation, Stage, Stem, read_spec_file
from resnet_xf.errors import SpecError

Block = Literal["basic", "bottleneck", "ir"]

IMAGENET_BLOCKS = {
    10: (1, 1, 1, 1), 14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 269: (3, 30, 48, 8),
}  # fmt: skip
"""Blocks in each stage, by the network's depth (He et al. 2015, table 1; timm for 10, 14, 26, 200 and 269)."""

ARCFACE_BLOCKS = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 74: (3, 6, 24, 3), 90: (3, 8, 30, 3), 100: (3, 13, 30, 3),
}  # fmt: skip
"""Blocks in each stage of ArcFace's networks."""

BASIC_DEPTHS = (10, 18, 34)
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def _staged(
    name: str, blocks: Sequence[int], block: Block, *, groups: int = 1, base_width: int = 64, **fields: Any
) -> ResNetSpec:
    """Stages of 64, 128, 256 … channels (times four in bottlenecks); all but the first have stride 2.

    ``groups`` and ``base_width`` are torchvision's and timm's: in the first stage a bottleneck has
    ``base_width`` · ``groups`` inner channels, and twice as many in each later one.
    """
    plain = (groups, base_width) == (1, 64)
    stages = tuple(
        Stage(
            depth=depth,
            channels=64 * 2**index * (1 if block == "basic" else 4),
            stride=2 if index else 1,
            mid_channels=None if plain else base_width * 2**index * groups,
            groups=groups,
        )
        for index, depth in enumerate(blocks)
    )
    return ResNetSpec(name=name, stages=stages, block=block, **fields)


def _imagenet(name: str, depth: int, **fields: Any) -> ResNetSpec:
    """The stages of a network of this depth for ImageNet."""
    return _staged(name, IMAGENET_BLOCKS[depth], "basic" if depth in BASIC_DEPTHS else "bottleneck", **fields)


def _cifar(name: str, depth: int, *, widen: int = 1, **fields: Any) -> ResNetSpec:
    """Three stages of 16, 32 and 64 channels, times ``widen``, for 32×32 images (He et al. 2015, section 4.2)."""
    blocks = (depth - (2 if widen == 1 else 4)) // 6
    channels = [16 * widen, 32 * widen, 64 * widen]
    stages = tuple(Stage(depth=blocks, channels=c, stride=1 if i == 0 else 2) for i, c in enumerate(channels))
    return ResNetSpec(name=name, num_classes=10, image_size=(32, 32), stages=stages, **fields)


def _gluon_v1(name: str, depth: int, **fields: Any) -> ResNetSpec:
    """In bottlenecks the first 1×1 convolution has the stride, and both 1×1 convolutions have a bias."""
    fields |= {} if depth in BASIC_DEPTHS else {"stride_on": "1x1", "conv_bias": ("1x1",)}
    return _imagenet(name, depth, **fields)


def _pruned(name: str) -> ResNetSpec:
    """GluonCV's pruned ResNet of version 1b or 1d. Its first blocks project even where the channels stay."""
    (*hidden, width), widths = PRUNED[name]
    stages = tuple(
        Stage(depth=len(mids), channels=channels, mid_channels=mids, stride=2 if index else 1)
        for index, (channels, mids) in enumerate(widths)
    )
    if not hidden:
        return ResNetSpec(name=name, stages=stages, stem=Stem(width=width))
    stem = Stem(kind="deep", width=width, hidden=(hidden[0], hidden[1]))
    return ResNetSpec(name=name, stages=stages, stem=stem, block="bottleneck", shortcut="avg_conv", project_first=True)


def _arcface(depth: int) -> ResNetSpec:
    """ArcFace's network for faces of 112×112 pixels: every stage has stride 2, and the output is an embedding."""
    stages = tuple(Stage(depth=n, channels=64 * 2**i, stride=2) for i, n in enumerate(ARCFACE_BLOCKS[depth]))
    return ResNetSpec(
        name=f"arcface_r{depth}", num_classes=512, image_size=(112, 112), stages=stages, block="ir",
        stem=Stem(kind="conv3", stride=1, pool=False, input_scale=(127.5, 0.0078125)),
        activation="prelu", head="embedding", drop_rate=0.4, norm_eps=2e-5,
    )  # fmt: skip


DEEP = Stem(kind="deep")
WIDER = Stem(kind="deep", width=128)
TIERED = Stem(kind="deep", hidden=(24, 32))
GLUON_V2: dict[str, Any] = {"preactivation": True, "stem": Stem(input_norm=True)}
AVG: dict[str, Any] = {"shortcut": "avg_conv"}
GLUON_SE = SqueezeExcitation(divisor=1, bias=False)
SPLIT: dict[str, Any] = {"radix": 2, "stride_on": "avg_pool", "shortcut": "avg_conv"}
"""ResNeSt's blocks."""
SYMBOL: dict[str, Any] = {"project_first": True, "norm_eps": 2e-5}
"""Of the symbol API's networks."""
SYMBOL_NEXT = SYMBOL | {"stem": Stem(input_norm="shift")}
SYMBOL_V2 = SYMBOL | {"preactivation": True, "stem": Stem(input_norm="shift")}
CIFAR_STEM = Stem(kind="conv3", width=16, stride=1, pool=False, activation=False)
"""GluonCV's: one 3×3 convolution with 16 channels, without a ReLU."""
CIFAR_V2: dict[str, Any] = {"preactivation": True, "stem": replace(CIFAR_STEM, input_norm=True)}
CIFAR_V2_RAW = CIFAR_V2 | {"shortcut_from": "input", "stem": replace(CIFAR_STEM, input_norm=True, norm=False)}
SYMBOL_CIFAR_V2 = SYMBOL | {"preactivation": True, "stem": replace(CIFAR_STEM, input_norm="shift", norm=False)}
BOOK: dict[str, Any] = {"in_channels": 1, "num_classes": 10, "image_size": (96, 96)}
BOOK_18: dict[str, Any] = BOOK | {"shortcut_norm": False, "conv_bias": ("stem", "3x3", "shortcut")}


def _book_resnext() -> ResNetSpec:
    """The book's ResNet-18 with its ResNeXt blocks: groups of 16 channels, a bottleneck as wide as the block."""
    widths = (64, 128, 256, 512)
    stages = tuple(
        Stage(depth=2, channels=c, mid_channels=c, groups=c // 16, stride=1 if i == 0 else 2)
        for i, c in enumerate(widths)
    )
    return ResNetSpec(
        name="d2l_resnext", stages=stages, block="bottleneck", conv_bias=("stem", "1x1", "3x3", "shortcut"), **BOOK
    )


def with_output_stride(spec: ResNetSpec, output_stride: int) -> ResNetSpec:
    """The spec with dilation instead of stride in its last stages: its last map is 1/``output_stride`` of the image.

    It has the same weights. timm has ``output_stride`` for it, torchvision ``replace_stride_with_dilation``.

    Raises:
        SpecError: if the spec's own strides do not allow ``output_stride``.
    """
    stride = spec.stem.stride * (2 if spec.stem.pool else 1)
    dilation = 1
    stages = []
    for stage in spec.stages:
        stage_stride = stage.stride if stride * stage.stride <= output_stride else 1
        dilation *= stage.stride // stage_stride
        stride *= stage_stride
        stages.append(replace(stage, stride=stage_stride, dilation=stage.dilation * dilation))
    if stride != output_stride:
        raise SpecError(f"$.stages: {spec.name} cannot have an output stride of {output_stride}; it comes to {stride}")
    return replace(spec, name=f"{spec.name}_os{output_stride}", stages=tuple(stages))


@cache
def dilated_specs() -> tuple[ResNetSpec, ...]:
    """The zoo's networks for ImageNet with an output stride of 8 or 16, which are not in the zoo by a name."""
    found = []
    for spec, stride in itertools.product(ZOO.values(), (8, 16)):
        if spec.image_size == (224, 224) and all(stage.dilation == 1 for stage in spec.stages):
            with suppress(SpecError):
                found.append(with_output_stride(spec, stride))
    return tuple(found)


_TORCHVISION = (
    *(_imagenet(f"resnet{depth}", depth) for depth in (18, 34, 50, 101, 152)),
    _imagenet("resnext50_32x4d", 50, groups=32, base_width=4),
    _imagenet("resnext101_32x8d", 101, groups=32, base_width=8),
    _imagenet("resnext101_64x4d", 101, groups=64, base_width=4),
    _imagenet("wide_resnet50_2", 50, base_width=128),
    _imagenet("wide_resnet101_2", 101, base_width=128),
)
_TIMM = (
    _imagenet("resnet50c", 50, stem=DEEP),
    _imagenet("resnet50d", 50, stem=DEEP, shortcut="avg_conv"),
    _imagenet("resnet101d", 101, stem=DEEP, shortcut="avg_conv"),
    _imagenet("resnet50s", 50, stem=WIDER),
    _imagenet("resnet26d", 26, stem=DEEP, shortcut="avg_conv"),
    _imagenet("resnet200", 200),
    _imagenet("seresnet50", 50, se=SqueezeExcitation()),
    _imagenet("seresnext50_32x4d", 50, groups=32, base_width=4, se=SqueezeExcitation()),
    _imagenet("resnet10t", 10, stem=TIERED, shortcut="avg_conv"),
    _imagenet("resnet14t", 14, stem=TIERED, shortcut="avg_conv"),
    with_output_stride(_imagenet("resnet50", 50), 16),
    with_output_stride(_imagenet("resnet50", 50), 8),
)
_GLUON = (
    *(_gluon_v1(f"resnet{depth}_v1", depth) for depth in (18, 34, 50, 101, 152)),
    *(_imagenet(f"resnet{depth}_v2", depth, **GLUON_V2) for depth in (18, 34, 50, 101, 152)),
)
_GLUONCV = (
    *(_cifar(f"cifar_resnet{depth}_v1", depth, stem=CIFAR_STEM) for depth in CIFAR_DEPTHS),
    *(_cifar(f"cifar_resnet{depth}_v2", depth, **CIFAR_V2_RAW) for depth in CIFAR_DEPTHS),
    *(_cifar(f"cifar_wideresnet{d}_{k}", d, widen=k, **CIFAR_V2) for d, k in ((16, 10), (28, 10), (40, 8))),
    *(_imagenet(f"resnet{depth}_v1b", depth) for depth in (18, 34, 50, 101, 152)),
    *(
        _imagenet(f"resnet{depth}_v1{letter}", depth, stem=stem, **fields)
        for letter, stem, fields in (("c", DEEP, {}), ("d", DEEP, AVG), ("e", WIDER, AVG), ("s", WIDER, {}))
        for depth in (50, 101, 152)
    ),
    *(_gluon_v1(f"se_resnet{depth}_v1", depth, se=GLUON_SE) for depth in (18, 34, 50, 101, 152)),
    *(_imagenet(f"se_resnet{depth}_v2", depth, se=GLUON_SE, **GLUON_V2) for depth in (18, 34, 50, 101, 152)),
    *(_pruned(name) for name in PRUNED),
    *(_imagenet(f"resnest{depth}", depth, stem=DEEP, **SPLIT) for depth in (14, 26, 50)),
    _imagenet("resnest101", 101, stem=WIDER, **SPLIT),
    *(_imagenet(f"resnest{depth}", depth, stem=WIDER, drop_rate=0.2, **SPLIT) for depth in (200, 269)),
)
_SYMBOL = (
    *(_imagenet(f"symbol_resnet{depth}", depth, **SYMBOL_V2) for depth in (18, 34, 50, 101, 152, 200, 269)),
    *(_imagenet(f"symbol_resnet{depth}_v1", depth, **SYMBOL) for depth in (18, 34)),
    *(_imagenet(f"symbol_resnet{depth}_v1", depth, stride_on="1x1", **SYMBOL) for depth in (50, 101, 152, 200, 269)),
    *(
        _imagenet(f"symbol_resnext{depth}_32x4d", depth, groups=32, base_width=4, **SYMBOL_NEXT)
        for depth in (50, 101, 152)
    ),
    *(_cifar(f"symbol_cifar_resnet{depth}", depth, **SYMBOL_CIFAR_V2) for depth in (20, 56, 110)),
    *(_cifar(f"symbol_cifar_resnet{depth}_v1", depth, stem=CIFAR_STEM, **SYMBOL) for depth in (20, 56, 110)),
)
_INSIGHTFACE = tuple(_arcface(depth) for depth in ARCFACE_BLOCKS)
_D2L = (
    _imagenet("d2l_resnet18", 18, **BOOK_18),
    _book_resnext(),
)

_BY_REFERENCE = {
    "torchvision": _TORCHVISION,
    "timm": _TIMM,
    "gluon": _GLUON,
    "gluoncv": _GLUONCV,
    "symbol": _SYMBOL,
    "insightface": _INSIGHTFACE,
    "d2l": _D2L,
}

ZOO: dict[str, ResNetSpec] = {spec.name: spec for specs in _BY_REFERENCE.values() for spec in specs}
"""Every named spec, by name."""

REFERENCE: dict[str, str] = {spec.name: source for source, specs in _BY_REFERENCE.items() for spec in specs}
"""The source of each: ``torchvision``, ``timm``, ``gluon`` (MXNet's model zoo), ``gluoncv``, ``symbol`` (MXNet's
``example/image-classification``), ``insightface`` or ``d2l``."""

ALIASES = {f"cifar_resnet{depth}": f"cifar_resnet{depth}_v1" for depth in CIFAR_DEPTHS} | {
    f"{name[:-2]}0.{name[-2:]}": name
    for name in PRUNED  # GluonCV has both
}
"""Other names for some of them."""


THUMBNAIL = Stem(kind="conv3", stride=1, norm=False, activation=False, pool=False)
"""Of Gluon's networks for thumbnails: one 3×3 convolution."""


@cache
def relatives() -> dict[str, ResNetSpec]:
    """Specs of published networks that the zoo does not list, by name; they are known by their arrays, and by name."""
    small: dict[str, Any] = {"stem": THUMBNAIL, "image_size": (32, 32)}
    small_v2 = small | {"preactivation": True, "stem": replace(THUMBNAIL, input_norm=True)}
    next_101: dict[str, Any] = {"groups": 32, "base_width": 4}
    specs = [
        *(_gluon_v1(f"resnet{depth}_v1_thumbnail", depth, **small) for depth in (18, 34, 50, 101, 152)),
        *(_gluon_v1(f"se_resnet{depth}_v1_thumbnail", depth, se=GLUON_SE, **small) for depth in (18, 34, 50, 101, 152)),
        *(_imagenet(f"resnet{depth}_v2_thumbnail", depth, **small_v2) for depth in (18, 34, 50, 101, 152)),
        *(_imagenet(f"se_resnet{d}_v2_thumbnail", d, se=GLUON_SE, **small_v2) for d in (18, 34, 50, 101, 152)),
        *(_cifar_resnext(f"cifar_resnext29_{g}x{width}d", 29, g, width) for g, width in ((32, 4), (16, 64))),
        _imagenet("resnext101_32x4d", 101, **next_101),
        _imagenet("seresnext101_32x4d", 101, se=SqueezeExcitation(), **next_101),
        _imagenet("seresnext101_64x4d", 101, se=SqueezeExcitation(), groups=64, base_width=4),
        _imagenet("d2l_resnet18_small", 18, stem=Stem(kind="conv3", stride=1, pool=False), **BOOK_18),
        *_gluoncv2(),
    ]
    return {spec.name: spec for spec in specs}


def _cifar_resnext(name: str, depth: int, groups: int, base_width: int, **fields: Any) -> ResNetSpec:
    """A ResNeXt for CIFAR: three stages of 256, 512 and 1024 channels."""
    fields |= {"num_classes": 10, "image_size": (32, 32), "stem": replace(CIFAR_STEM, width=64, activation=True)}
    return _staged(name, ((depth - 2) // 9,) * 3, "bottleneck", groups=groups, base_width=base_width, **fields)


def _gluoncv2() -> Iterator[ResNetSpec]:
    """The networks of gluoncv2 that a spec can say; those with a ``b`` have the stride on the 3×3."""
    basic = {10: (1, 1, 1, 1), 12: (2, 1, 1, 1), 14: (2, 2, 1, 1), 16: (2, 2, 2, 1), 26: (3, 3, 3, 3)}
    basic |= {depth: IMAGENET_BLOCKS[depth] for depth in (18, 34)}
    thin = {"bc14b": (1, 1, 1, 1), "bc26b": (2, 2, 2, 2), "bc38b": (3, 3, 3, 3)}
    deep = {depth: IMAGENET_BLOCKS[depth] for depth in (50, 101, 152, 200, 269)}
    gate = SqueezeExcitation(divisor=1)
    kinds: dict[str, dict[str, Any]] = {
        "resnet": {}, "seresnet": {"se": gate}, "preresnet": {"preactivation": True},
        "sepreresnet": {"preactivation": True, "se": gate},
    }  # fmt: skip
    average: dict[str, Any] = {"stem": DEEP, "shortcut": "avg_conv"}

    def network(name: str, blocks: Sequence[int], *, wide: bool, **fields: Any) -> ResNetSpec:
        return _staged(f"gluoncv2_{name}", blocks, "bottleneck" if wide else "basic", **fields)

    for kind, fields in kinds.items():
        for depth, blocks in basic.items():
            yield network(f"{kind}{depth}", blocks, wide=False, **fields)
        for name, blocks in thin.items():
            yield network(f"{kind}{name}", blocks, wide=True, **fields)
        for depth, blocks in deep.items():
            yield network(f"{kind}{depth}", blocks, wide=True, stride_on="1x1", **fields)
            yield network(f"{kind}{depth}b", blocks, wide=True, **fields)
    for depth in (10, 18):
        yield network(f"resneta{depth}", basic[depth], wide=False, **average)
    yield network("resnetabc14b", thin["bc14b"], wide=True, **average)
    for depth in (50, 101, 152):
        yield network(f"resneta{depth}b", deep[depth], wide=True, **average)
        dilated = with_output_stride(network("", deep[depth], wide=True, stem=WIDER), 8)
        yield replace(dilated, name=f"gluoncv2_resnetd{depth}b")
    blocks_next = {14: thin["bc14b"], 26: thin["bc26b"], 38: thin["bc38b"], 50: deep[50], 101: deep[101]}
    for depth, groups, width in itertools.product(blocks_next, (16, 32, 64), (2, 4)):
        for kind, fields in (("resnext", {}), ("seresnext", {"se": gate})):
            name = f"{kind}{depth}_{groups}x{width}d"
            yield network(name, blocks_next[depth], wide=True, groups=groups, base_width=width, **fields)
    yield from _gluoncv2_cifar(kinds, gate)


def _gluoncv2_cifar(kinds: dict[str, dict[str, Any]], gate: SqueezeExcitation) -> Iterator[ResNetSpec]:
    """gluoncv2's networks for CIFAR."""
    stem = replace(CIFAR_STEM, activation=True)
    raw = replace(CIFAR_STEM, norm=False)
    sizes: dict[str, Any] = {"num_classes": 10, "image_size": (32, 32)}
    for kind, fields in kinds.items():
        for depth, count, wide in (
            (20, 3, 1), (56, 9, 1), (110, 18, 1), (1202, 200, 1),
            (164, 18, 4), (272, 30, 4), (542, 60, 4), (1001, 111, 4),
        ):  # fmt: skip
            stages = tuple(Stage(depth=count, channels=16 * wide * 2**i, stride=2 if i else 1) for i in range(3))
            yield ResNetSpec(
                name=f"gluoncv2_{kind}{depth}_cifar", stages=stages, block="bottleneck" if wide > 1 else "basic",
                stem=raw if "preactivation" in fields else stem, **fields, **sizes,
            )  # fmt: skip
    for depth, groups in itertools.product((20, 29, 56, 272), (1, 2, 4, 8, 16, 32, 64)):
        for width in sorted({64 // groups, 128 // groups, 64 if groups == 16 else 64 // groups}):
            yield _cifar_resnext(f"gluoncv2_resnext{depth}_{groups}x{width}d_cifar", depth, groups, width)
            name = f"gluoncv2_seresnext{depth}_{groups}x{width}d_cifar"
            yield _cifar_resnext(name, depth, groups, width, se=gate)
    for depth, widen in ((16, 10), (28, 10), (40, 8)):
        yield _cifar(f"gluoncv2_wrn{depth}_{widen}_cifar", depth, widen=widen, preactivation=True, stem=raw)


def list_models(pattern: str = "*") -> list[str]:
    """The names in the zoo that match a shell-style pattern: ``cifar*``, for example."""
    return fnmatch.filter(ZOO, pattern)


def is_published(name: str) -> bool:
    """Whether a network of this name is in the zoo, or related to one of it."""
    return name in ZOO or name in ALIASES or name in relatives()


def get_spec(name_or_path: str | Path) -> Spec:
    """The spec of that name in the zoo, or the spec in a ``.toml``, ``.json`` or ``.safetensors`` file.

    Raises:
        SpecError: if there is no spec of that name, or the file cannot be read or is malformed.
    """
    name = str(name_or_path)
    if is_published(name):
        name = ALIASES.get(name, name)
        return ZOO.get(name) or relatives()[name]
    if Path(name).suffix.lower() in (".toml", ".json", ".safetensors") or os.path.exists(name):
        return read_spec_file(name)
    near = difflib.get_close_matches(name, ZOO, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`resnet-xf list` shows them all."
    raise SpecError(f"no spec is called {name!r}: {hint} A .toml or .json file serves as well.")
