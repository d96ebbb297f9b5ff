import pytest

from resnet_xf import ShapeError, list_models, plan, plan_block, trace
from resnet_xf.nodes import Conv, Flatten, Linear, Pool, Sequential

# Published counts, ImageNet: parameters and GMACs at 224×224; the book's with its own parameters.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnet50_v1": (25_575_912, 3.858),
    "d2l_resnet18": (11_178_378, None),
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


def test_every_zoo_network_has_a_published_count() -> None:
    assert set(PUBLISHED) == set(list_models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    parameters, gmacs = PUBLISHED[name]
    whole = trace(name, (1, plan(name).spec.in_channels, 224, 224))[0]
    assert whole.parameters == parameters
    assert gmacs is None or round(whole.macs / 1e9, 3) == gmacs


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

    from resnet_xf_mxnet.loan import mx

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
