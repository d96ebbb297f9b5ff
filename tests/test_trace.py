import pytest

from resnet_xf import get_spec, plan, trace
from resnet_xf.architecture.nodes import Conv, Flatten, Linear, Pool, Sequential
from resnet_xf.architecture.plan import plan_block
from resnet_xf.architecture.trace import Observed, ObservedTrace, observed_rows, totals
from resnet_xf.errors import ShapeError

# Published counts, ImageNet: parameters and GMACs at 224×224; the book's with its own parameters.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnet50_v1": (25_575_912, 3.858),
    "d2l_resnet18": (11_178_378, None),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
    "resnet101_v1": (44_589_800, 7.570),
    "resnet152_v1": (60_252_648, 11.282),
    "resnet18_v2": (11_687_848, 1.814),
    "resnet34_v2": (21_796_008, 3.664),
    "resnet50_v2": (25_549_480, 4.089),
    "resnet101_v2": (44_541_608, 7.801),
    "resnet152_v2": (60_185_256, 11.514),
}

STAGES = [("layer1", (64, 56, 56)), ("layer2", (128, 28, 28)), ("layer3", (256, 14, 14)), ("layer4", (512, 7, 7))]
# The notebooks' own tables for (1, 1, 224, 224). The PyTorch one prints its stem as one row, which is our maxpool's.
PYTORCH_NOTEBOOK = [
    ("maxpool", (64, 56, 56)),
    *STAGES,
    ("global_pool", (512, 1, 1)),
    ("flatten", (512,)),
    ("fc", (10,)),
]
GLUON_NOTEBOOK = [
    *(("conv1", (64, 112, 112)), ("bn1", (64, 112, 112)), ("act1", (64, 112, 112)), ("maxpool", (64, 56, 56))),
    *STAGES,
    *(("global_pool", (512, 1, 1)), ("fc", (10,))),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    parameters, gmacs = PUBLISHED[name]
    whole = trace(name, (1, plan(name).spec.in_channels, 224, 224))[0]
    assert whole.parameters == parameters
    assert gmacs is None or round(whole.macs / 1e9, 3) == gmacs


# CIFAR networks: parameters and MACs at 32×32 of GluonCV's own code run on MXNet 1.9.1. Those of v1 are published
# with its accuracies; v2's and the first are also imgclsmob's.
CIFAR = {
    "cifar_resnet20_v1": (272_474, 40_813_184),
    "cifar_resnet32_v1": (466_906, 69_124_736),
    "cifar_resnet44_v1": (661_338, 97_436_288),
    "cifar_resnet56_v1": (855_770, 125_747_840),
    "cifar_resnet110_v1": (1_730_714, 253_149_824),
    "cifar_resnet20_v2": (272_282, 40_813_184),
    "cifar_resnet32_v2": (466_714, 69_124_736),
    "cifar_resnet44_v2": (661_146, 97_436_288),
    "cifar_resnet56_v2": (855_578, 125_747_840),
    "cifar_resnet110_v2": (1_730_522, 253_149_824),
    "cifar_wideresnet16_10": (17_116_666, 2_412_173_568),
    "cifar_wideresnet28_10": (36_479_226, 5_243_328_768),
    "cifar_wideresnet40_8": (35_748_346, 5_172_024_320),
}
# GluonCV's v1b to v1s at 224×224, which timm's resnet50, 50c, 50d and 50s equal.
GLUONCV = {
    "resnet50_v1b": (25_557_032, 4_089_184_256),
    "resnet50_v1c": (25_576_264, 4_328_824_832),
    "resnet50_v1d": (25_576_264, 4_328_824_832),
    "resnet50_v1s": (25_680_808, 5_444_337_664),
}


@pytest.mark.parametrize("name", CIFAR | GLUONCV)
def test_gluoncvs_counts(name: str) -> None:
    whole = trace(name, (1, 3, *plan(name).spec.image_size))[0]
    assert (whole.parameters, whole.macs) == (CIFAR | GLUONCV)[name]


@pytest.mark.parametrize("table", [PYTORCH_NOTEBOOK, GLUON_NOTEBOOK], ids=["pytorch", "gluon"])
def test_the_notebooks_tables_row_for_row(table: list[tuple[str, tuple[int, ...]]]) -> None:
    wanted = {name for name, _ in table}
    rows = trace("d2l_resnet18", (1, 1, 224, 224), top=True)
    assert [(row.name, row.output_shape) for row in rows if row.name in wanted] == [(n, (1, *s)) for n, s in table]


@pytest.mark.parametrize("channels, stride, output", [(3, 1, (4, 3, 6, 6)), (6, 2, (4, 6, 3, 3))])
def test_the_notebooks_single_blocks(channels: int, stride: int, output: tuple[int, ...]) -> None:
    block = plan_block("d2l_resnet18", in_channels=3, channels=channels, stride=stride)
    assert trace(block, (4, 3, 6, 6))[0].output_shape == output


def test_rows_of_containers_are_the_sums_of_what_they_hold() -> None:
    rows = trace("resnet50", (2, 3, 64, 64))
    for row in rows:
        inner = [other for other in rows if other.depth == row.depth + 1 and _holds(row.name, other.name)]
        if inner:
            assert row.parameters == sum(other.parameters for other in inner)
            assert row.macs == sum(other.macs for other in inner)


def _holds(outer: str, inner: str) -> bool:
    return bool(inner) and inner.rpartition(".")[0] == outer


def test_multiply_accumulates_are_for_one_image() -> None:
    assert trace("resnet18", (1, 3, 64, 64))[0].macs == trace("resnet18", (8, 3, 64, 64))[0].macs


@pytest.mark.parametrize("size", [1, 2, 33])
def test_padded_networks_accept_any_image(size: int) -> None:
    assert trace("resnet50", (1, 3, size, size))[0].output_shape == (1, 1000)


@pytest.mark.parametrize(
    "node, shape, says",
    [
        (Sequential((("a", Conv(3, 4, 3)), ("b", Conv(4, 4, 3)))), (1, 3, 4, 4), "^b: an input of size 2 shrinks to nothing"),
        (Sequential((("pool", Pool("max", 3, 2)),)), (1, 3, 2, 9), "^pool: an input of size 2 shrinks to nothing"),
        (Sequential((("fc", Linear(3, 4)),)), (1, 3, 1, 1), r"^fc: expected \(N, C\), got"),
        (Sequential((("flat", Flatten()), ("conv", Conv(3, 4, 3)))), (1, 3, 1, 1), r"^conv: expected \(N, C, H, W\)"),
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_is_refused_by_layer(node: Sequential, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        trace(node, shape)


@pytest.mark.parametrize(
    "shape, says",
    [
        ((1, 1, 224, 224), "^conv1: expected 3 channels, got 1"),
        ((1, 3, 224), "^input: expected"),
        ((1, 3, 0, 224), "^input: expected"),
    ],
)
def test_a_network_refuses_a_shape_that_is_not_its_own(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        trace("resnet18", shape)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("kernel, stride, padding", [(k, s, p) for k in (1, 2, 3) for s in (1, 2, 3) for p in (0, 1) if 2 * p <= k])  # fmt: skip
def test_pooled_sizes_are_both_frameworks_or_refused(kernel: int, stride: int, padding: int, ceil: bool) -> None:
    import torch

    from resnet_xf_mxnet.numpy_compat import mx

    for size in range(max(1, kernel - 2 * padding), 13):
        sides = {
            torch.nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)(torch.zeros(1, 1, size, size)).shape[2],
            mx.gluon.nn.MaxPool2D(kernel, stride, padding, ceil_mode=ceil)(mx.nd.zeros((1, 1, size, size))).shape[2],
        }
        pool = Pool("max", kernel, stride, padding, ceil)
        if len(sides) == 1:
            assert trace(pool, (1, 1, size, size))[0].output_shape[2:] == (*sides, *sides)
        else:
            with pytest.raises(ShapeError, match="^maxpool: .* begins outside"):
                trace(pool, (1, 1, size, size))


@pytest.mark.parametrize("name", ["resnet18", "resnet50_v2", "seresnet50", "resnest14", "arcface_r18"])
def test_totals_are_the_first_row_of_the_trace(name: str) -> None:
    spec = get_spec(name)
    shape = (1, spec.in_channels, *spec.image_size)
    whole = trace(spec, shape)[0]
    assert totals(plan(spec).root, shape) == (whole.parameters, whole.macs)


def test_rows_of_a_native_network_have_the_depths_of_the_plan() -> None:
    planned = plan("resnet18")
    rows = trace(planned, (1, 3, 32, 32))
    seen = ObservedTrace({row.name: Observed(row.output_shape, {}) for row in rows})
    observed = observed_rows(seen, {row.name: row.kind for row in rows})
    assert [(row.name, row.depth) for row in observed] == [(row.name, row.depth) for row in rows]
    assert {row.name: row.depth for row in rows}["layer1.0.conv1"] == 3
