"""Networks that are known by the names and shapes of their arrays alone."""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from helpers import graphs
from helpers.runs import TINY
from resnet_xf import (
    ResNetSpec,
    Stage,
    Stem,
    build,
    convert,
    draw_weights,
    get_backend,
    get_spec,
    load,
    load_weights,
    plan,
    save_weights,
    write_checkpoint,
)
from resnet_xf.architecture.plan import explicit_spec
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.architecture.zoo import ZOO, relatives
from resnet_xf.errors import WeightsError
from resnet_xf.formats.families import LAYOUTS
from resnet_xf.formats.files import CheckpointFile, is_checkpoint, read_checkpoint
from resnet_xf.formats.identify import Identity, check_unambiguous, identify
from resnet_xf.formats.layouts import Layout, comparable, places
from resnet_xf.formats.loads import gluon_layout
from resnet_xf.formats.matching import kernels
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import load_checkpoint
from resnet_xf_mxnet.numpy_compat import mx

ORIGINALS = {
    "se_resnet18_v1": ("3f0d83cff43ba4c3", "b405a0794f8d975d"),
    "se_resnet50_v2": ("ffe244d7a707179f", "9508aa76a80ac7eb"),
    "cifar_resnext29_32x4d": ("d907327c003c2060", "77f1c0415f398b46"),
    "resnest14": ("fe0c09df71ac07a9", "6f1506bfdb0ff9d4"),
    "seresnext101_64x4d": ("edb7d3fe0629a29b", "1d790d85cc4707ef"),
    "gluoncv2_resnet18": ("70e9924cd1a0de14", "f54134627fd4d5b0"),
    "gluoncv2_resnet50b": ("d0f976f3d693b94e", "e5d6becff81bc455"),
    "gluoncv2_seresnet18": ("ae527944ca2a8f19", "70e4201ea14f6f03"),
    "gluoncv2_preresnet18": ("870c15df91d23107", "907e63d45dc74290"),
    "gluoncv2_sepreresnetbc26b": ("db3f4f9e516e6740", "c49fb25a5c76b111"),
    "gluoncv2_resneta18": ("8b20bb8f789d21e4", "57a384fe9e21ce44"),
    "gluoncv2_resnetd50b": ("cf2ecaea771d4ea9", "ebd5079c5351e5d3"),
    "gluoncv2_resnext14_32x4d": ("af7230d8f19f8d2e", "9c57d910ef28c91c"),
    "gluoncv2_resnet20_cifar": ("c24feddd481020c2", "102152247cfc97ef"),
    "gluoncv2_preresnet20_cifar": ("16a17f383993e1ff", "d899a4551d7fb67f"),
    "gluoncv2_wrn16_10_cifar": ("00fd9ad98f8a6fd0", "07cfbab973f4d989"),
    "gluoncv2_resnext29_32x4d_cifar": ("fb99bcc47c8a6e99", "579496a1417a0ca6"),
}
"""Digests of the names and shapes of all arrays, by ``save_parameters`` and by ``export`` without the network's prefix.

They are those of GluonCV 0.10.5's and gluoncv2 0.0.64's own networks on MXNet 1.9.1; gluoncv2's exported names as
``comparable`` returns them.
"""

IN_PYTORCH = {
    "resnet18": "e28f33f8cc95015c",
    "resnet50": "267d68baa713aaa6",
    "gluoncv2_resnetbc26b": "132d64487db22957",
    "gluoncv2_resnet18": "decb917014a4136f",
    "gluoncv2_resnet50b": "6c2b159b8b9e8ceb",
    "gluoncv2_seresnet18": "e243b26ab063d39b",
    "gluoncv2_preresnet18": "c17548ae45d7f961",
    "gluoncv2_sepreresnetbc26b": "53a2817cd6d9f6a2",
    "gluoncv2_resneta18": "f2ca66d2801e1cb6",
    "gluoncv2_resnetd50b": "ebe4d113f9a3a9c6",
    "gluoncv2_resnext14_32x4d": "4a7dcaf03b704795",
    "gluoncv2_resnet20_cifar": "898399becc447235",
    "gluoncv2_preresnet20_cifar": "fefa2df9400a4a6c",
    "gluoncv2_wrn16_10_cifar": "4875434b8ec4e079",
    "gluoncv2_resnext29_32x4d_cifar": "0febd2642684ff4b",
}
"""Digests as above, of transformers 5.24.0's and pytorchcv 0.0.74's networks, without PyTorch's step counters.

Their outputs in float64 were those of ours, within 1e-15 of the largest.
"""


def shapes_of(name: str) -> list[tuple[bool, dict[str, tuple[int, ...]], str]]:
    """For each family that may have the network: whether names are exported ones, the shapes by name, the family."""
    found = []
    for layout in LAYOUTS:
        if (
            layout.is_own(name)
            or layout.may_be(name)
            or (name.startswith("seresnext") and "model zoo v1" in layout.title)
        ):
            for counted in layout.ways:
                listed = places(plan(name), layout, counted=counted)
                if listed:
                    exported = counted or layout.joint == "_"
                    found.append((exported, {place.theirs: place.shape for place in listed}, layout.title))
    return found


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{theirs} {shape}" for theirs, shape in shapes.items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_families_tables_have_the_names_and_shapes_of_the_originals(name: str) -> None:
    digests: dict[bool, set[str]] = {False: set(), True: set()}
    for exported, shapes, _ in shapes_of(name):
        digests[exported].add(digest(shapes))
    structural, counted = ORIGINALS[name]
    assert structural in digests[False]
    assert counted in digests[True]


@pytest.mark.parametrize("name", IN_PYTORCH)
def test_the_tables_have_the_names_and_shapes_of_pytorch_s_own_families(name: str) -> None:
    assert IN_PYTORCH[name] in {digest(shapes) for _, shapes, _ in shapes_of(name)}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_every_pattern_of_a_family_has_a_network(layout: Layout) -> None:
    for pattern in (*layout.models, *layout.only, *layout.alike):
        assert any(fnmatch.fnmatchcase(name, pattern) for name in (*ZOO, *relatives())), pattern


def test_openmmlab_s_names_are_torchvision_s_in_a_backbone_and_a_head() -> None:
    shapes = all_weight_shapes("resnet18")
    names = {f"head.{name}" if name.startswith("fc.") else f"backbone.{name}": name for name in shapes}
    identity = identify(file_of({theirs: shapes[ours] for theirs, ours in names.items()}, "pth"))
    assert identity.plan.spec == get_spec("resnet18")
    assert set(identity.weights) == set(shapes)


def test_kuangliu_s_names_are_torchvision_s_but_for_shortcut_and_linear() -> None:
    stem = msgspec.structs.replace(get_spec("resnet18").stem, kind="conv3", stride=1, pool=False)
    spec = msgspec.structs.replace(get_spec("resnet18"), name="mine", stem=stem)
    shapes = all_weight_shapes(spec)
    names = {name.replace("downsample", "shortcut").replace("fc.", "linear."): name for name in shapes}
    assert "layer2.0.shortcut.0.weight" in names
    file = file_of({theirs: shapes[ours] for theirs, ours in names.items()}, "pth")
    assert set(identify(file, spec).weights) == set(shapes)
    with pytest.raises(WeightsError, match="conv1.weight has shape"):
        identify(file)


def test_gluoncv2_s_exported_names_are_shortened() -> None:
    layout = next(layout for layout in LAYOUTS if layout.rewrites and "gluoncv2" in layout.title)
    assert list(
        comparable(
            [
                "resnet4_resinitblock0_convblock0_batchnormextra0_gamma",
                "resnet4_stage2_resunit0_convblock0_conv0_weight",
                "resnext1_stage1_resnextunit2_resnextbottleneck0_convblock1_conv0_weight",
                "resneta0_stage2_resaunit0_resadownblock0_convblock0_conv0_weight",
                "preresnet0_stage1_preresunit0_preresblock0_preconvblock0_batchnorm0_beta",
                "preresnet0_preresactivation0_batchnorm0_gamma",
                "cifarshakedropresnet0_stage1_shakedropresunit0_resblock0_convblock0_conv0_weight",
            ],
            layout,
        )
    ) == [
        "resnet4_init_convblock0_batchnorm0_gamma",
        "resnet4_stage2_unit0_convblock0_conv0_weight",
        "resnext1_stage1_unit2_body_convblock1_conv0_weight",
        "resneta0_stage2_unit0_convblock0_conv0_weight",
        "preresnet0_stage1_unit0_body_convblock0_batchnorm0_beta",
        "preresnet0_activation_batchnorm0_gamma",
        "cifarshakedropresnet0_stage1_shakedropresunit0_body_convblock0_conv0_weight",
    ]


def file_of(shapes: Mapping[str, tuple[int, ...]], format_: Any = "params") -> CheckpointFile:
    """A file with arrays of these shapes, all 0 or 1."""
    arrays = {
        name: np.full(shape, float(name.endswith(("gamma", "var"))), np.float32) for name, shape in shapes.items()
    }
    return CheckpointFile(Path("net.params"), format_, arrays)


def is_sure(file: CheckpointFile) -> tuple[Identity, bool]:
    """The identity of a file, and whether nothing else fits."""
    identity = identify(file)
    try:
        check_unambiguous(file, identity)
    except WeightsError:
        return identity, False
    return identity, True


@pytest.mark.parametrize(
    "name",
    [
        "se_resnet18_v1",
        "se_resnet18_v2",
        *(name for name in ORIGINALS if "gluoncv2" in name and name != "gluoncv2_resnet50b"),
    ],
)
def test_networks_are_identified_by_both_kinds_of_names(name: str) -> None:
    for exported, shapes, title in shapes_of(name):
        if digest(shapes) not in ORIGINALS.get(name, [digest(shapes)]):
            continue  # another family's
        identity, sure = is_sure(file_of({("net3_" if exported else "") + theirs: s for theirs, s in shapes.items()}))
        assert plan(identity.plan.spec).root == plan(name).root, title
        # Only the exported names tell gluoncv2's resnet20 from its ShakeDrop network.
        assert sure == (exported or name != "gluoncv2_resnet20_cifar")


def test_the_stride_of_a_gluoncv2_bottleneck_is_not_guessed() -> None:
    exported = next(shapes for exported, shapes, _ in shapes_of("gluoncv2_resnet50b") if exported)
    file = file_of(exported)
    with pytest.raises(WeightsError, match="could be gluoncv2_resnet50.*gluoncv2_resnet50b.*--spec"):
        check_unambiguous(file, identify(file))
    assert not identify(file, get_spec("gluoncv2_resnet50b")).others


@pytest.mark.parametrize(
    "name", ["symbol_resnet18", "symbol_resnet18_v1", "symbol_resnext50_32x4d", "symbol_cifar_resnet20"]
)
def test_the_symbol_apis_networks_have_their_eps(name: str) -> None:
    shapes = next(shapes for _, shapes, _ in shapes_of(name))
    identity, sure = is_sure(file_of({theirs.replace("running", "moving"): shape for theirs, shape in shapes.items()}))
    assert sure
    assert identity.plan.spec == get_spec(name)


def test_an_arcface_network_may_be_without_its_input_scale() -> None:
    shapes = next(shapes for _, shapes, _ in shapes_of("arcface_r18"))
    assert "relu0_gamma" in shapes
    file = file_of(shapes)
    with pytest.raises(
        WeightsError, match="could be arcface_r18.*networks whose images are normalised outside.*--spec"
    ):
        check_unambiguous(file, identify(file))


@pytest.mark.parametrize("version", [1, 2])
def test_the_zoo_s_networks_for_thumbnails(version: int, tmp_path: Path) -> None:
    network = mx.gluon.model_zoo.vision.get_resnet(version, 18, thumbnail=True, classes=7)
    network.initialize()
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.save_parameters(str(tmp_path / "a.params"))
    network.collect_params().save(str(tmp_path / "b.params"))
    for path in (tmp_path / "a.params", tmp_path / "b.params"):
        identity, sure = is_sure(read_checkpoint(path))
        assert sure
        assert identity.plan.spec == msgspec.structs.replace(get_spec(f"resnet18_v{version}_thumbnail"), num_classes=7)


class GluonResidual(mx.gluon.nn.HybridBlock):
    """The book's residual block."""

    def __init__(self, channels: int, *, projects: bool, stride: int = 1) -> None:
        super().__init__()
        conv = mx.gluon.nn.Conv2D
        self.conv1 = conv(channels, kernel_size=3, padding=1, strides=stride)
        self.conv2 = conv(channels, kernel_size=3, padding=1)
        self.conv3 = conv(channels, kernel_size=1, strides=stride) if projects else None
        self.bn1, self.bn2 = mx.gluon.nn.BatchNorm(), mx.gluon.nn.BatchNorm()

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.conv3(x) if self.conv3 else x))


def gluon_blocks() -> list[Any]:
    stages = []
    for number, channels in enumerate((64, 128, 256, 512)):
        stage = mx.gluon.nn.HybridSequential()
        first = number > 0
        stage.add(GluonResidual(channels, projects=first, stride=1 + first), GluonResidual(channels, projects=False))
        stages.append(stage)
    return stages


def gluon_stem(*, small: bool = False) -> list[Any]:
    layers = mx.gluon.nn
    if small:
        return [layers.Conv2D(64, 3, 1, 1), layers.BatchNorm(), layers.Activation("relu")]
    pool = layers.MaxPool2D(3, 2, 1)
    return [layers.Conv2D(64, 7, 2, 3), layers.BatchNorm(), layers.Activation("relu"), pool]


def gluon_chain(*layers: Any) -> Any:
    chain = mx.gluon.nn.HybridSequential()
    chain.add(*layers)
    return chain


def gluon_book(form: str) -> Any:
    """The book's ResNet-18: ``flat``, as a ``class`` with the layers in ``net``, or for ``small`` images."""
    dense = mx.gluon.nn.Dense(10)
    if form == "class":
        network = mx.gluon.nn.HybridSequential()
        network.net = gluon_chain(gluon_chain(*gluon_stem()), *gluon_blocks(), mx.gluon.nn.GlobalAvgPool2D(), dense)
        return network
    return gluon_chain(*gluon_stem(small=form == "small"), *gluon_blocks(), mx.gluon.nn.GlobalAvgPool2D(), dense)


@pytest.mark.parametrize("form", ["flat", "class", "small"])
def test_the_book_s_network_in_gluon(form: str, tmp_path: Path) -> None:
    mx.gluon.nn.Conv2D(1, 1)  # the counters of the exported names begin at 1 or higher
    network = gluon_book(form)
    network.initialize()
    inner = network.net if form == "class" else network
    inner(mx.nd.zeros((1, 1, 32, 32)))
    network.save_parameters(str(tmp_path / "a.params"))
    paths = [tmp_path / "a.params"]
    if form != "class":
        network.collect_params().save(str(tmp_path / "b.params"))
        paths.append(tmp_path / "b.params")
    spec = get_spec("d2l_resnet18_small" if form == "small" else "d2l_resnet18")
    for path in paths:
        identity, sure = is_sure(read_checkpoint(path))
        assert sure
        assert identity.plan.root == plan(msgspec.structs.replace(spec, in_channels=1, num_classes=10)).root
        names = network._collect_params_with_prefix()
        begin = "net." if form == "class" else ""
        first = names[f"{begin}1.0.conv1.weight" if form == "class" else f"{3 + (form == 'flat')}.0.conv1.weight"]
        assert np.array_equal(identity.weights["layer1.0.conv1.weight"], first.data().asnumpy())


class TorchResidual(nn.Module):
    """The book's residual block."""

    def __init__(self, before: int, channels: int, *, projects: bool, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(before, channels, 1, stride=stride) if projects else None
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)


def torch_stages() -> list[nn.Module]:
    stages: list[nn.Module] = []
    for number, channels in enumerate((64, 128, 256, 512)):
        first, before = number > 0, 64 if number < 2 else channels // 2
        block = TorchResidual(before, channels, projects=first, stride=1 + first)
        stages.append(nn.Sequential(block, TorchResidual(channels, channels, projects=False)))
    return stages


def torch_stem() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def torch_book(form: str) -> nn.Module:
    if form == "flat":
        pool = nn.AdaptiveAvgPool2d((1, 1))
        return nn.Sequential(torch_stem(), *torch_stages(), pool, nn.Flatten(), nn.Linear(512, 10))
    if form == "class":
        network = nn.Sequential(torch_stem())
        for number, stage in enumerate(torch_stages()):
            network.add_module(f"b{number + 2}", stage)
        network.add_module("last", nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, 10)))
        wrapper = nn.Module()
        wrapper.net = network
        return wrapper
    network = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU())
    for number, stage in enumerate(torch_stages()):
        network.add_module(f"resnet_block{number + 1}", stage)
    network.add_module("global_avg_pool", nn.AdaptiveAvgPool2d((1, 1)))
    network.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(512, 10)))
    return network


@pytest.mark.parametrize("form", ["flat", "class", "small"])
def test_the_book_s_network_in_pytorch(form: str, tmp_path: Path) -> None:
    torch.save(torch_book(form).state_dict(), tmp_path / "a.pth")
    identity, sure = is_sure(read_checkpoint(tmp_path / "a.pth"))
    assert sure
    assert identity.plan.spec.name == ("d2l_resnet18_small" if form == "small" else "d2l_resnet18")
    assert identity.plan.spec.in_channels == (3 if form == "small" else 1)


@pytest.mark.parametrize("words", ["torch", "gluon"])
def test_the_book_s_resnext(words: str) -> None:
    shapes = next(
        shapes for exported, shapes, title in shapes_of("d2l_resnext") if words == "gluon" or "PyTorch" in title
    )
    identity, sure = is_sure(file_of(shapes, "pth" if words == "torch" else "params"))
    assert sure
    assert identity.plan.spec == get_spec("d2l_resnext")


def test_kernels_are_counted_without_a_plan() -> None:
    for name, spec in (ZOO | relatives()).items():
        if kernels(spec) < 200:
            assert kernels(spec) == sum(len(shape) > 1 for shape in all_weight_shapes(spec).values()) - 1, name


STATE = {name: torch.from_numpy(array) for name, array in draw_weights("resnet18").items()}
TRUNK = {name: tensor for name, tensor in STATE.items() if not name.startswith("fc.")}


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["encoder_q.", "module.student.net.", "_orig_mod.module."])
def test_a_prefix_of_all_names_is_removed(prefix: str, tmp_path: Path) -> None:
    torch.save({"state_dict": under(prefix, STATE)}, tmp_path / "a.ckpt")
    file = read_checkpoint(tmp_path / "a.ckpt")
    assert file.prefix == prefix
    assert identify(file).plan.spec == get_spec("resnet18")


def test_one_of_two_networks_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(under("module.q.", STATE) | under("module.k.", STATE) | {"module.queue": torch.zeros(4, 4)}, path)
    with pytest.raises(WeightsError, match=r"choose the network with --prefix q\. or --prefix k\.$"):
        identify(read_checkpoint(path))
    for prefix in ("q.", "q", "module.q.", "module.q"):
        file = read_checkpoint(path, prefix)
        assert file.prefix == "module.q."
        assert identify(file).plan.spec == get_spec("resnet18")
    with pytest.raises(WeightsError, match="no tensor's name begins with 'z'.*inspect --tensors"):
        read_checkpoint(path, "z")


@pytest.mark.parametrize(
    "state, says",
    [
        (TRUNK, r"but not its head: missing fc\.weight, fc\.bias\. `convert --backbone`.*`train --new-head`"),
        (under("trunk.", TRUNK) | {"neck.conv.weight": torch.zeros(4, 4, 1, 1)}, r"--prefix trunk\. --backbone$"),
        (under("backbone.", TRUNK) | {"neck.conv.weight": torch.zeros(4, 4, 1, 1)}, r"`convert --backbone` takes the"),
        (
            under("backbone.", TRUNK) | under("teacher.", STATE),
            r"--prefix teacher\. or --prefix backbone\. --backbone$",
        ),
        ({"w": torch.zeros(3)}, r"follow no known layout.*--spec"),
        (
            under("a.b.c.d.e.f.g.", TRUNK) | {"neck.weight": torch.zeros(4)},
            r"--prefix a\.b\.c\.d\.e\.f\.g\. --backbone$",
        ),
        (under("a.b.c.d.e.f.g.h.", TRUNK) | {"neck.weight": torch.zeros(4)}, r"follow no known layout"),
        ({name: torch.zeros(3) for name in "abcde"}, r"the names \(a, b, c, …\) follow no known layout"),
        ({**STATE, "extra.weight": torch.zeros(3)}, r"name yours with --spec, .*left over extra\.weight$"),
    ],
)
def test_a_refusal_names_the_way_on(state: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=says):
        identify(read_checkpoint(tmp_path / "a.pth"))


def test_torchvision_s_layers_in_a_sequential_are_known(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    layers = list(torchvision.models.resnet18().children())[:-1]
    torch.save(nn.Sequential(*layers).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="the stem and the stages of resnet18"):
        identify(read_checkpoint(tmp_path / "a.pth"))
    trunk = identify(read_checkpoint(tmp_path / "a.pth"), backbone=True)
    assert set(all_weight_shapes("resnet18")) - set(trunk.weights) == {"fc.weight", "fc.bias"}
    torch.save(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 7)).state_dict(), tmp_path / "a.pth")
    assert identify(read_checkpoint(tmp_path / "a.pth")).plan.spec.num_classes == 7


def test_a_head_behind_a_dropout_is_the_head(tmp_path: Path) -> None:
    state = TRUNK | {"fc.1.weight": torch.zeros(7, 512), "fc.1.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "a.pth")
    identity = identify(read_checkpoint(tmp_path / "a.pth"))
    assert identity.plan.spec.num_classes == 7
    assert identity.weights["fc.weight"].shape == (7, 512)
    assert identity.notes[0].startswith("fc.1 is the head; what stands beside it without arrays")


@pytest.mark.parametrize("shape, options", [((10, 16), ("--num-classes", 7)), ((10, 32), ())])
def test_a_head_of_another_shape_is_left_out(
    shape: tuple[int, int], options: tuple[Any, ...], tmp_path: Path, command: Any
) -> None:
    weights = draw_weights(TINY) | {"fc.weight": np.zeros(shape, np.float32)}
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "a.pth")
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    options += ("--spec", tmp_path / "tiny.toml", "--backbone", "--no-verify")
    code, _, err = command("convert", tmp_path / "a.pth", tmp_path / "out.safetensors", *options)
    assert (code, err) == (0, "")
    _, kept = load_weights(tmp_path / "out.safetensors")
    assert kept.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(np.array_equal(array, weights[name]) for name, array in kept.items())


def test_a_network_that_is_given_layer_by_layer_gets_a_new_head(tmp_path: Path, command: Any) -> None:
    spec = explicit_spec("mine", plan(TINY).root, TINY.image_size)
    weights = draw_weights(spec, 5)
    net, saved, run = (tmp_path / name for name in ("net.json", "net.safetensors", "run"))
    save_weights(saved, weights, spec)
    net.write_text(spec.to_json())
    options = ("--num-classes", 12, "--epochs", 1, "--limit", 64, "--device", "cpu", "--out", run)
    code, _, err = command("train", net, "--weights", saved, "--new-head", *options)
    assert (code, err) == (0, "")
    first = load_checkpoint(list_checkpoints(run)[0]).weights
    assert first["fc.weight"].shape == (12, 16)
    assert all(np.array_equal(first[name], array) for name, array in weights.items() if not name.startswith("fc."))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "kind", ["a whole model", "a trainer's settings", "torchvision's", "a named model's", "bare", "TorchScript"]
)
def test_what_cannot_be_read_safely_tells_the_command(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a $(model)'s.pt"
    network = nn.Sequential(nn.Conv2d(1, 2, 3))
    if kind == "TorchScript":
        torch.jit.trace(network, torch.zeros(1, 1, 4, 4)).save(path)
    else:
        keys = {"torchvision's": "model", "a named model's": "model_state_dict"}
        trained: dict[str, Any] = {"args": argparse.Namespace(rate=0.1)}
        trained |= {"model": "resnet18"} if kind == "a named model's" else {}
        trained |= network.state_dict() if kind == "bare" else {keys.get(kind, "state_dict"): network.state_dict()}
        torch.save(network if kind == "a whole model" else trained, path)
    with pytest.raises(
        WeightsError, match="any code. If you trust it, save its weights and read that file: python -c"
    ) as error:
        read_checkpoint(path)
    python, option, code, *arguments = shlex.split(str(error.value).partition("read that file: ")[2])
    assert (python, option) == ("python", "-c")
    monkeypatch.setattr("sys.argv", ["-c", *arguments])
    exec(code, {"__name__": "__main__"})  # here, where PyTorch is imported already
    assert set(read_checkpoint(tmp_path / "a $(model)'s-weights.pth").tensors) == {"0.weight", "0.bias"}


def test_the_trunk_of_a_detector_is_found_among_other_parts() -> None:
    """GluonCV's SSD has the zoo's network under a prefix, and beside it other convolutions with names of the same kind."""
    shapes = next(shapes for exported, shapes, _ in shapes_of("resnet18_v1") if exported)
    trunk = {f"ssd1_resnetv10_{name}": shape for name, shape in shapes.items() if not name.startswith("dense")}
    others = {"ssd1_expand_conv0_weight": (512, 512, 1, 1), "ssd1_convpredictor0_conv0_weight": (84, 256, 3, 3)}
    file = file_of(trunk | others)
    identity = identify(file, backbone=True)
    check_unambiguous(file, identity)
    assert identity.prefix == "ssd1_resnetv10_"
    assert set(identity.weights) == {name for name in all_weight_shapes("resnet18_v1") if not name.startswith("fc.")}
    assert identity.notes == (
        "2 arrays are of other parts, and are left out: ssd1_expand_conv0_weight, ssd1_convpredictor0_conv0_weight",
    )


def test_a_pose_network_s_trunk_is_under_a_prefix() -> None:
    """GluonCV's SimplePose and CenterNet hold the layers of v1b in a Sequential."""
    layout = next(layout for layout in LAYOUTS if "in a Sequential" in layout.title)
    trunk = {
        place.theirs: place.shape for place in places(plan("resnet18_v1b"), layout) or () if "fc." not in place.ours
    }
    file = file_of({f"resnet.{name}": shape for name, shape in trunk.items()} | {"final_layer.weight": (17, 256, 1, 1)})
    with pytest.raises(WeightsError, match=r"choose the network with --prefix resnet\. --backbone$"):
        identify(file)


@pytest.mark.parametrize(
    "name",
    ["p{}.conv1.weight", "x{}_conv0_weight", "conv{}" + "9" * 5000 + "_weight", "a." * 200 + "p{}.conv1.weight"],
)
def test_names_of_any_kind_are_refused_soon(name: str) -> None:
    array = np.zeros((4, 3, 3, 3), np.float32)
    file = CheckpointFile(Path("net.params"), "params", {name.format(number): array for number in range(3000)})
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="--spec"):
        identify(file)
    assert time.perf_counter() - start < 10  # a second on a busy machine


def test_pytorch_s_own_cifar_networks_have_a_relu_that_gluoncv_s_have_not(tmp_path: Path) -> None:
    """The names and shapes of both are equal, so that the network has to be named, or told by outputs."""
    weights = draw_weights("cifar_resnet20_v1", 3, "probe")
    path = tmp_path / "cifar10_resnet20.pt"
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
    with pytest.raises(WeightsError, match=r"ReLU after the first norm .* Name the network .* outputs\.npy\)$"):
        convert(path, tmp_path / "out.safetensors")
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    original = build("gluoncv2_resnet20_cifar", "torch", weights=weights, dtype="float64")
    expected = get_backend("torch").forward(original, images)
    done = convert(path, tmp_path / "out.safetensors", images=images, expected=expected)
    assert done.spec.name == "gluoncv2_resnet20_cifar"


def test_a_graph_beside_a_file_that_we_wrote_is_of_another_file(tmp_path: Path) -> None:
    """``net.params``, converted from ``net-0000.params``, has the names of a zoo and its network beside it."""
    spec = get_spec("cifar_resnet20_v1")
    layout, _ = gluon_layout(plan(spec))
    write_checkpoint(tmp_path / "net.params", draw_weights(spec), spec)
    (tmp_path / "net-symbol.json").write_text(graphs.head(graphs.stem()).tojson())
    identity = identify(read_checkpoint(tmp_path / "net.params"))
    assert (identity.plan.spec, identity.read_as, identity.exported) == (spec, layout.title, None)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a.bin", "a.pth", "a.onnx"])
def test_a_checkpoint_is_known_by_its_contents(tmp_path: Path, name: str) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / name)
    assert is_checkpoint(str(tmp_path / name))


def test_a_published_name_and_a_spec_s_file_are_no_checkpoints(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.json").write_text(get_spec("resnet18").to_json())
    Path("text").write_text("not a network")
    for folder in ("resnet18", "mine"):
        (Path(folder) / "checkpoints").mkdir(parents=True)
        (Path(folder) / "checkpoints" / "step-00000001.safetensors").write_bytes(b"")
    known = {
        name: is_checkpoint(name) for name in ("resnet18", "cifar_resnet20", "net.json", "text", "missing", "mine")
    }
    assert [name for name, is_one in known.items() if is_one] == ["mine"]


def test_commands_take_a_prefix(tmp_path: Path, command: Any) -> None:
    path = tmp_path / "a.pth"
    weights = draw_weights("cifar_resnet20_v1", scheme="probe")
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save(under("q.", state) | under("k.", state), path)
    code, _, err = command("convert", path, tmp_path / "b.safetensors")
    assert (code, "--prefix q. or --prefix k." in err) == (2, True)
    code, out, _ = command("inspect", path, "--prefix", "q.")
    assert code == 0
    assert "prefix of every name: q." in out
    code, out, _ = command("convert", path, tmp_path / "b.safetensors", "--prefix", "k.", "--spec", "cifar_resnet20_v1")
    assert code == 0
    assert "prefix removed from every name: k." in out
    assert "only resnet_xf loads it, by resnet_xf.load(file)" in out
    assert load(path, "torch", spec="cifar_resnet20_v1", prefix="q.").fc.out_features == 10
    code, out, _ = command(
        "parity", "cifar_resnet20_v1", "--weights", path, "--prefix", "q", "--level", "quick", "--image-size", 16
    )
    assert code == 0, out


def test_a_head_may_have_a_million_classes() -> None:
    spec = ResNetSpec(name="narrow", stages=(Stage(depth=1, channels=1),), stem=Stem(kind="conv3", width=1))
    weights = draw_weights(msgspec.structs.replace(spec, num_classes=10**6))
    identity = identify(CheckpointFile(Path("net.safetensors"), "safetensors", weights), spec)
    assert identity.plan.spec.num_classes == 10**6
