"""The families of networks, as tables of names; :class:`resnet_xf.formats.layouts.Layout` explains the columns."""

from __future__ import annotations

from typing import Any

from resnet_xf.formats.layouts import Layout, Rewrites


def _outer(*stem: str, norm: int | None = None) -> dict[str, str]:
    """A zoo's names outside the stages: the stem's layers are ``features.0`` and so on, then the norm and the head."""
    names = {layer: f"features.{number}" for number, layer in enumerate(stem)}
    return names | ({} if norm is None else {"norm": f"features.{norm}"}) | {"fc": "output"}


_SE = {"se.fc1": "se.0", "se.fc2": "se.2"}
_BODY = {
    "conv1": "body.0", "bn1": "body.1", "conv2": "body.3", "bn2": "body.4", "conv3": "body.6", "bn3": "body.7", **_SE,
}  # fmt: skip
_SHORTCUT = {"downsample.0": "downsample", **_SE}
_STAGES = ("stage{}_", "stage{}_")
_V1 = _outer("conv1", "bn1")
_ATTENTION = {
    "conv2": "conv2.conv", "bn2": "conv2.bn", "attention.fc1": "conv2.fc1", "attention.bn1": "conv2.bn1",
    "attention.fc2": "conv2.fc2",
}  # fmt: skip
_RESNEST: dict[str, Any] = {"inner": _ATTENTION, "dilates": "all", "only": ("resnest*",)}

_BOTTLENECKS = ("resnet50", "resnet101", "resnet152")

TORCH = Layout(
    "torchvision and timm",
    dilates="bottlenecks",
    words="torch",
    rewrites=(
        (r"^backbone\.", ""),
        (r"^head\.fc\.", "fc."),
        (r"\.shortcut\.(?=[01]\.)", ".downsample."),
        (r"^linear\.", "fc."),
    ),
    alike={
        "cifar_resnet*_v1": "PyTorch's own for CIFAR, with a ReLU after the first norm (gluoncv2_resnet*_cifar)",
        **dict.fromkeys(_BOTTLENECKS, "networks in Caffe's style, the stride on the 1×1 (gluoncv2_resnet*)"),
    },
)
"""OpenMMLab's networks have the same names, in a ``backbone`` and a ``head``; kuangliu's have a ``linear``."""
_TRANSFORMERS = Layout(
    "Hugging Face's transformers",
    (),
    {
        "conv1": "resnet.embedder.embedder.convolution",
        "bn1": "resnet.embedder.embedder.normalization",
        "fc": "classifier.1",
    },
    block="resnet.encoder.stages.{place}.layers.{block}.{inner}",
    inner={
        "conv1": "layer.0.convolution", "bn1": "layer.0.normalization", "conv2": "layer.1.convolution",
        "bn2": "layer.1.normalization", "conv3": "layer.2.convolution", "bn3": "layer.2.normalization",
        "downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization",
    },
    words="torch",
    alike={"gluoncv2_resnetbc26b": "networks with downsample_in_bottleneck (stride on the 1×1)"},
    only=(
        "resnet18", "resnet34", "gluoncv2_resnetbc26b", *_BOTTLENECKS,
        "gluoncv2_resnet50", "gluoncv2_resnet101", "gluoncv2_resnet152",  # downsample_in_bottleneck
    ),
    rewrites=((r"^(?=(?:embedder|encoder)\.)", "resnet."),),
)  # fmt: skip
_RCNN: Rewrites = (
    (r"^features\.0\.", "conv1."),
    (r"^features\.1\.", "bn1."),
    (r"^features\.4\.", "layer1."),
    (r"^features\.5\.", "layer2."),
    (r"^features\.6\.", "layer3."),
    (r"^top_features\.0\.", "layer4."),
)
"""GluonCV's Faster and Mask R-CNN hold the layers of their trunk in two lists."""

GLUON = Layout(
    "this project's Gluon networks, GluonCV's v1b to v1s", ("resnet*_v1[bcdes]*",), dilates="all", rewrites=_RCNN
)
_ZOOS = (
    TORCH,
    GLUON,
    Layout("GluonCV's v1b to v1s, exported", scopes=("layers{}_", "down{}_"), dilates="all"),
    Layout(
        "Gluon model zoo v1", ("resnet*_v1", "se_resnet*_v1"), _V1, 4, inner=_BODY, scopes=_STAGES, dense_gates=True
    ),
    Layout(
        "Gluon model zoo v2",
        ("resnet*_v2", "se_resnet*_v2"),
        _outer("input_norm", "conv1", "bn1", norm=9),
        5,
        inner=_SHORTCUT,
        scopes=_STAGES,
        dense_gates=True,
    ),
    Layout("GluonCV CIFAR v1", ("cifar_resnet*_v1",), _V1, 2, inner=_BODY, scopes=_STAGES),
    Layout(
        "GluonCV CIFAR v2",
        ("cifar_resnet*_v2",),
        _outer("input_norm", "conv1", norm=5),
        2,
        inner=_SHORTCUT,
        scopes=_STAGES,
    ),
    Layout(
        "GluonCV CIFAR wide",
        ("cifar_wideresnet*",),
        _outer("input_norm", "conv1", "bn1", norm=6),
        3,
        inner=_SHORTCUT,
        scopes=_STAGES,
    ),
    Layout("GluonCV CIFAR ResNeXt", (), _V1, 3, inner=_BODY, scopes=_STAGES, only=("cifar_resnext*",)),
    Layout(
        "Gluon v1 with a thumbnail's stem",
        (),
        _outer("conv1"),
        1,
        inner=_BODY,
        scopes=_STAGES,
        only=("*_v1_thumbnail",),
        dense_gates=True,
    ),
    Layout(
        "Gluon v2 with a thumbnail's stem",
        (),
        _outer("input_norm", "conv1", norm=6),
        2,
        inner=_SHORTCUT,
        scopes=_STAGES,
        only=("*_v2_thumbnail",),
        dense_gates=True,
    ),
    Layout("GluonCV's ResNeSt", ("resnest*",), **_RESNEST),
    Layout("GluonCV's ResNeSt, exported", scopes=("layers{}_", "down{}_"), **_RESNEST),
    Layout(
        "GluonCV's action recognition",
        (),
        {"conv1": "conv1", "bn1": "bn1", "fc": "output"},
        1,
        "layer{place}.{block}.{inner}",
        only=("resnet*_v1b",),
        alike={"*": "networks over several segments of a video"},
    ),
)

_D2L: dict[str, Any] = {"only": ("d2l_resnet*",), "inner": {"downsample.0": "conv3"}}
_D2L_NEXT: dict[str, Any] = {"only": ("d2l_resnext",), "inner": {"downsample.0": "conv4", "downsample.1": "bn4"}}


def _book(title: str, conv: str, norm: str, first: int, block: str, head: str, **fields: Any) -> tuple[Layout, ...]:
    """The book's network with its plain and its ResNeXt blocks, which differ in the shortcut's names."""
    outer = {"conv1": conv, "bn1": norm, "fc": head}
    return tuple(Layout(title, (), outer, first, block, **fields, **kind) for kind in (_D2L, _D2L_NEXT))


_SEQUENTIAL = "{place}.{block}.{inner}"
_BOOK = (
    *_book("the book's in Gluon", "0", "1", 4, _SEQUENTIAL, "9", scopes=("", "")),
    *_book("the book's in Gluon, as a class", "0.0", "0.1", 1, _SEQUENTIAL, "6"),
    *_book("the book's in PyTorch", "0.0", "0.1", 1, _SEQUENTIAL, "7", words="torch"),
    *_book("the book's in PyTorch, as a class", "0.0", "0.1", 2, "b{place}.{block}.{inner}", "last.2", words="torch"),
    *_book("the book's for small images in Gluon", "0", "1", 3, _SEQUENTIAL, "8", scopes=("", ""))[:1],
    *_book(
        "the book's for small images in PyTorch",
        "0",
        "1",
        1,
        "resnet_block{place}.{block}.{inner}",
        "fc.1",
        words="torch",
    )[:1],
    Layout(
        "torchvision's layers in an nn.Sequential",
        (),
        {"conv1": "0", "bn1": "1", "fc": "10"},
        4,
        _SEQUENTIAL,
        dilates="bottlenecks",
        words="torch",
    ),
    *(
        Layout(
            "the layers of GluonCV's v1b to v1s in a Sequential", (), stem | {"fc": "10"}, 4, _SEQUENTIAL, dilates="all"
        )
        for stem in (
            {"conv1": "0", "bn1": "1"},
            {"conv1.0": "0.0", "conv1.1": "0.1", "conv1.3": "0.3", "conv1.4": "0.4", "conv1.6": "0.6", "bn1": "1"},
        )
    ),
)

_SYMBOL_OUTER = {"input_norm": "bn_data", "conv1": "conv0", "bn1": "bn0", "norm": "bn1", "fc": "fc1"}
_UNIT = "stage{stage}_unit{unit}_{inner}"


def _symbol(title: str, only: tuple[str, ...], inner: dict[str, str], **fields: Any) -> Layout:
    outer = _SYMBOL_OUTER | fields.pop("outer", {})
    return Layout(title, (), outer, 0, _UNIT, inner, only=only, joint="_", **fields)


_EXAMPLES = "MXNet's symbol API"
_SYMBOLS = (
    _symbol(_EXAMPLES, ("symbol_resnet*", "symbol_cifar_resnet*"), {"downsample.0": "sc"}),
    _symbol(
        _EXAMPLES,
        ("symbol_resnet*_v1", "symbol_cifar_resnet*_v1"),
        {"downsample.0": "conv1sc", "downsample.1": "sc"},
    ),
    _symbol(_EXAMPLES, ("symbol_resnext*",), {"downsample.0": "sc", "downsample.1": "sc_bn"}),
    _symbol(
        "InsightFace",
        ("arcface_*",),
        {
            "act1": "relu1", "downsample.0": "conv1sc", "downsample.1": "sc",
            "se.fc1": "se_conv1", "se.act": "se_relu1", "se.fc2": "se_conv2",
        },
        outer={"act1": "relu0", "fc": "pre_fc1", "features": "fc1"},
        prelu="gamma",
        alike={"*": "networks whose images are normalised outside"},
    ),
)  # fmt: skip

_UNITS = r"_(?:res|seres|preres|sepreres|resnext|seresnext|resa)unit(?=\d+_)"
_EXPORTED2: Rewrites = (
    (r"(?:^|(?<=_))(?:pre)?resinitblock0_", "init_"),
    (r"(?:^|(?<=_))seinitblock0_", "init_"),
    (_UNITS, "_unit"),
    (r"_resadownblock0_", "_"),
    (r"_(?:pre)?res(?:next)?(?:block|bottleneck)0_", "_body_"),
    (r"_preconvblock(?=\d+_)", "_convblock"),
    (r"_preresactivation0_", "_activation_"),
)
"""gluoncv2's names of classes, by what they are in a network."""

_BODY2 = {f"{kind}{n}": f"body.conv{n}.{part}" for n in (1, 2, 3) for kind, part in (("conv", "conv"), ("bn", "bn"))}
_GATE2 = {"se.fc1": "se.conv1", "se.fc2": "se.conv2"}
_BODY2_EXPORTED = {
    f"{kind}{n}": f"body_convblock{n - 1}_{word}0"
    for n in (1, 2, 3)
    for kind, word in (("conv", "conv"), ("bn", "batchnorm"))
}
_GATE2_EXPORTED = {"se.fc1": "seblock0_conv0", "se.fc2": "seblock0_conv1"}
_DEEP2 = {
    "conv1.0": "conv1.conv", "conv1.1": "conv1.bn", "conv1.3": "conv2.conv", "conv1.4": "conv2.bn",
    "conv1.6": "conv3.conv", "bn1": "conv3.bn",
}  # fmt: skip
_DEEP2_EXPORTED = {
    "conv1.0": "convblock0_conv0", "conv1.1": "convblock0_batchnorm0", "conv1.3": "convblock1_conv0",
    "conv1.4": "convblock1_batchnorm0", "conv1.6": "convblock2_conv0", "bn1": "convblock2_batchnorm0",
}  # fmt: skip


def _gluoncv2(title: str, stem: dict[str, str], exported: dict[str, str], **fields: Any) -> tuple[Layout, ...]:
    """A class of gluoncv2's networks, as ``save_parameters`` and ``export`` name it, and as pytorchcv has it.

    ``stem`` and ``exported`` name the layers of the stem, without ``features.0.`` in ``stem``.
    """
    pre, average, alike = fields.pop("pre", None), fields.pop("average", False), fields.pop("alike", {})
    outer = {layer: f"features.0.{name}".rstrip(".") for layer, name in stem.items()} | {"fc": "output.1"}
    in_torch = {layer: name.replace("features.0", "features.init_block") for layer, name in outer.items()}
    in_torch |= {"fc": "output", "norm": "features.post_activ.bn"}
    exported = exported | {"fc": "dense0"}
    if pre:
        outer, exported = outer | {"norm": f"features.{pre}.bn"}, exported | {"norm": "activation_batchnorm0"}
        shortcut, counted = {"downsample.0": "identity_conv"}, {"downsample.0": "conv0"}
    else:
        prefix = "identity_block.conv" if average else "identity_conv"
        shortcut = {f"downsample.{n + average}": f"{prefix}.{word}" for n, word in enumerate(("conv", "bn"))}
        counted = {f"downsample.{n + average}": f"convblock0_{word}0" for n, word in enumerate(("conv", "batchnorm"))}
    inner = _BODY2 | _GATE2 | shortcut
    return (
        Layout(title, (), outer, 1, inner=inner, only=("gluoncv2_*",), alike=alike, **fields),
        Layout(
            f"{title}, as pytorchcv's", (), in_torch, 0, "features.stage{stage}.unit{unit}.{inner}", inner,
            words="torch", only=("gluoncv2_*",), alike=alike, **fields,
        ),
        Layout(
            f"{title}, exported", (), exported, 0, "stage{stage}_unit{block}_{inner}",
            _BODY2_EXPORTED | _GATE2_EXPORTED | counted, only=("gluoncv2_*",), joint="_", rewrites=_EXPORTED2, **fields,
        ),
    )  # fmt: skip


_INIT = (
    {"conv1": "conv.conv", "bn1": "conv.bn"},
    {"conv1": "init_convblock0_conv0", "bn1": "init_convblock0_batchnorm0"},
)
_INIT_PRE = {"conv1": "conv", "bn1": "bn"}, {"conv1": "init_conv0", "bn1": "init_batchnorm0"}
_INIT_DEEP = _DEEP2, {layer: f"init_{name}" for layer, name in _DEEP2_EXPORTED.items()}
_CIFAR = {"conv1": "conv", "bn1": "bn"}, {"conv1": "convblock0_conv0", "bn1": "convblock0_batchnorm0"}
_CIFAR_PRE = {"conv1": ""}, {"conv1": "conv0"}
_GLUONCV2 = (
    *_gluoncv2("gluoncv2", *_INIT),
    *_gluoncv2("gluoncv2's pre-activation networks", *_INIT_PRE, pre=5),
    *_gluoncv2("gluoncv2's networks A", *_INIT_DEEP, average=True, dilates="bottlenecks"),
    *_gluoncv2("gluoncv2's networks D", *_INIT_DEEP),
    *_gluoncv2("gluoncv2's for CIFAR", *_CIFAR, alike={"gluoncv2_resnet*": "gluoncv2's networks with ShakeDrop"}),
    *_gluoncv2("gluoncv2's pre-activation networks for CIFAR", *_CIFAR_PRE, pre=4),
)

LAYOUTS = (*_ZOOS, *_BOOK, *_SYMBOLS, *_GLUONCV2, _TRANSFORMERS)
"""Every family, in the order in which they are tried."""
