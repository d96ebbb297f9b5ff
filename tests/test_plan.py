import msgspec
import pytest
from hypothesis import given

from helpers.strategies import specs
from resnet_xf import ResNetSpec, Stage, get_spec, plan
from resnet_xf.architecture.nodes import (
    Activation,
    Clip,
    Conv,
    GroupNorm,
    LeakyReLU,
    Linear,
    Node,
    Norm,
    PReLU,
    Residual,
    Sequential,
    walk,
)
from resnet_xf.architecture.plan import FEATURES, explicit_spec, headless, plan_block, plan_features, resized
from resnet_xf.architecture.spec import SqueezeExcitation
from resnet_xf.errors import SpecError


def names(spec: ResNetSpec | str) -> list[str]:
    return [name for name, _ in walk(plan(spec).root)]


def nodes(spec: ResNetSpec | str) -> dict[str, object]:
    return dict(walk(plan(spec).root))


def test_names_are_torchvisions() -> None:
    found = names("resnet50")
    assert found[1:5] == ["conv1", "bn1", "act1", "maxpool"]
    assert found[-3:] == ["global_pool", "flatten", "fc"]
    block = [name for name in found if name.startswith("layer1.0.")]
    assert [name.removeprefix("layer1.0.") for name in block] == [
        *("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3"),
        *("downsample", "downsample.0", "downsample.1", "add", "act3"),
    ]


@pytest.mark.parametrize("name, strided", [("resnet50", "conv2"), ("resnet50_v1", "conv1")])
def test_where_the_stride_sits(name: str, strided: str) -> None:
    convs = {n: node for n, node in nodes(name).items() if isinstance(node, Conv) and n.startswith("layer2.0.conv")}
    assert {n.rpartition(".")[2]: c.stride for n, c in convs.items() if c.stride != 1} == {strided: 2}


def test_biases_are_where_the_spec_says() -> None:
    biased = {n for n, node in nodes("resnet50_v1").items() if isinstance(node, Conv) and node.bias}
    assert {n.rpartition(".")[2] for n in biased} == {"conv1", "conv3"}
    assert "conv1" not in biased
    book = nodes("d2l_resnet18")
    assert all(node.bias for node in book.values() if isinstance(node, Conv))
    assert isinstance(book["layer2.0.downsample.0"], Conv)
    assert "layer2.0.downsample.1" not in book


def test_a_block_projects_only_where_its_shape_changes() -> None:
    blocks = {n: node for n, node in nodes("resnet34").items() if isinstance(node, Residual)}
    assert [n for n, block in blocks.items() if block.shortcut] == ["layer2.0", "layer3.0", "layer4.0"]
    same_channels = ResNetSpec(name="x", stages=(Stage(depth=2, channels=64, stride=2),))
    assert nodes(same_channels)["layer1.0"].shortcut is not None
    assert nodes(same_channels)["layer1.1"].shortcut is None


def test_the_last_norm_of_each_block_is_the_one_that_starts_at_zero() -> None:
    spec = ResNetSpec(name="x", stages=(Stage(depth=2, channels=8),), block="bottleneck", zero_init_last=True)
    assert [n for n, node in nodes(spec).items() if isinstance(node, Norm) and node.zero_init] == [
        "layer1.0.bn3",
        "layer1.1.bn3",
    ]


def test_the_first_dilated_block_keeps_the_dilation_of_the_stage_before() -> None:
    stages = (Stage(depth=2, channels=8, dilation=2), Stage(depth=2, channels=8, dilation=4))
    found = nodes(ResNetSpec(name="x", stages=stages))
    dilations = {n: node.dilation for n, node in found.items() if isinstance(node, Conv) and "layer2" in n}
    assert dilations == {
        "layer2.0.conv1": 2,
        "layer2.0.conv2": 4,
        "layer2.1.conv1": 4,
        "layer2.1.conv2": 4,
    }


def test_deep_stem_and_average_pooled_shortcut_are_numbered_as_timms() -> None:
    import msgspec

    spec = get_spec("resnet50")
    stem = msgspec.structs.replace(spec.stem, kind="deep")
    spec = msgspec.structs.replace(spec, stem=stem, shortcut="avg_conv")
    found = nodes(spec)
    assert [n for n in found if n.startswith("conv1.")] == [f"conv1.{i}" for i in range(7)]
    assert [n for n in found if n.startswith("layer1.0.downsample.")] == [f"layer1.0.downsample.{i}" for i in (1, 2)]
    assert [n for n in found if n.startswith("layer2.0.downsample.")] == [f"layer2.0.downsample.{i}" for i in (0, 1, 2)]


def test_one_block_alone() -> None:
    block = plan_block("d2l_resnet18", in_channels=3, channels=6, stride=2)
    assert [name for name, _ in walk(block)][1:] == [
        *("conv1", "bn1", "act1", "conv2", "bn2", "downsample", "downsample.0", "add", "act2"),
    ]
    assert plan_block("d2l_resnet18", in_channels=3, channels=3).shortcut is None
    with pytest.raises(SpecError, match=r"\$\.stages\[0\]\.groups: 2 does not divide the 3 input channels"):
        plan_block("resnet18", in_channels=3, channels=6, groups=2)
    with pytest.raises(SpecError, match=r"\$\.stages\[0\]: .*widht"):
        plan_block("resnet18", in_channels=3, channels=6, widht=2)


def test_one_block_takes_lists_and_a_plan() -> None:
    sizes = {"in_channels": 64, "channels": 256}
    block = plan_block("resnet50", **sizes, mid_channels=((32, 48),))
    assert block.body[0] == ("conv1", Conv(64, 32, 1))
    assert plan_block("resnet50", **sizes, mid_channels=[[32, 48]]) == block
    assert plan_block(plan("resnet50"), **sizes, mid_channels=[[32, 48]]) == block


def test_a_backbone_ends_with_its_last_map() -> None:
    taps = plan_features("resnet18", ["layer3", "act1"])
    assert taps.names == ("act1", "layer3")
    assert [name for name, _ in taps.children] == ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"]
    assert plan_features("resnet50").names == ("layer1", "layer2", "layer3", "layer4")
    with pytest.raises(SpecError, match="no layer is called layer9; choose from conv1, bn1"):
        plan_features("resnet50", ["layer9"])


@given(specs())
def test_names_are_unique_and_blocks_match_the_spec(spec: ResNetSpec) -> None:
    found = names(spec)
    assert len(found) == len(set(found))
    blocks = [node for node in nodes(spec).values() if isinstance(node, Residual)]
    assert len(blocks) == sum(stage.depth for stage in spec.stages)


def test_an_explicit_spec_takes_its_sizes_from_the_first_convolution_and_the_last_linear_layer() -> None:
    root = plan(ResNetSpec(name="mine", in_channels=2, num_classes=7, stages=(Stage(depth=1, channels=4),))).root
    spec = explicit_spec("layers", root, (32, 40))
    assert (spec.name, spec.in_channels, spec.num_classes, spec.image_size) == ("layers", 2, 7, (32, 40))


def test_an_explicit_spec_s_first_convolution_and_last_linear_layer_are_resized() -> None:
    root = plan(ResNetSpec(name="mine", in_channels=2, num_classes=7, stages=(Stage(depth=1, channels=4),))).root
    changed = resized(explicit_spec("layers", root, (32, 40)), in_channels=3, num_classes=9)
    assert (changed.in_channels, changed.num_classes) == (3, 9)
    leaves = nodes(changed)
    assert (leaves["conv1"].in_channels, leaves["fc"].out_features) == (3, 9)


@pytest.mark.parametrize(("channels", "width"), [(16, 8), (40, 8), (48, 16), (80, 24)])
def test_the_hidden_width_of_a_gate_is_rounded_to_the_nearest_multiple_of_its_divisor(
    channels: int, width: int
) -> None:
    stages = (Stage(depth=1, channels=channels),)
    gated = nodes(ResNetSpec(name="mine", stages=stages, se=SqueezeExcitation(ratio=0.25, divisor=8)))
    assert [node.out_channels for name, node in gated.items() if isinstance(node, Conv) and ".se." in name] == [
        width,
        channels,
    ]


def test_only_a_softmax_at_the_end_makes_outputs_probabilities() -> None:
    layers = plan("resnet18").root.children
    ended = explicit_spec("ended", Sequential((*layers, ("softmax", Activation("softmax")))), (64, 64))
    inside = explicit_spec("inside", Sequential((layers[0], ("softmax", Activation("softmax")), *layers[1:])), (64, 64))
    assert [plan(spec).ends_in_softmax for spec in ("resnet18", ended, inside)] == [False, True, False]


def test_a_network_of_no_classes_has_no_head_and_one_class_is_a_head() -> None:
    one, none = (msgspec.structs.replace(get_spec("resnet18"), num_classes=number) for number in (1, 0))
    assert plan(one).root.children[-1] == ("fc", Linear(512, 1))
    assert [name for name, _ in plan(none).root.children][-2:] == ["global_pool", "flatten"]
    features = explicit_spec("features", plan(none).root, (64, 64))
    assert (features.num_classes, plan(features).outputs) == (0, 512)


@pytest.mark.parametrize("norm", [Norm(4, 1e-5, 0.1), GroupNorm(4, 2, 1e-5)], ids=lambda node: node.kind)
@pytest.mark.parametrize(
    "function", [Activation("relu"), LeakyReLU(0.1), PReLU(4), Clip(0.0, 6.0)], ids=lambda node: node.kind
)
def test_without_its_head_a_network_keeps_the_last_norm_and_activation(norm: Node, function: Node) -> None:
    block = Residual((("act", function),), (("conv", Conv(4, 4, 3, 1, 1)),), None, "input", ())
    layers = ("conv1", Conv(3, 4, 3, 1, 1)), ("layer1", Sequential((("0", block),))), ("bn", norm), ("act", function)
    root = Sequential((*layers, *FEATURES, ("fc", Linear(4, 5))))
    assert headless(explicit_spec("mine", root, (8, 8))).root.children == (*layers, *FEATURES)
