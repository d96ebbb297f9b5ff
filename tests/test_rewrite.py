import numpy as np
import pytest
from hypothesis import assume, given, settings

from helpers.strategies import specs
from helpers.undrawn import undrawn
from resnet_xf import ResNetSpec, draw_weights, get_backend, plan, trace
from resnet_xf.architecture.measures import relative_error, rounding_bound, roundings
from resnet_xf.architecture.nodes import Conv, Norm, walk
from resnet_xf.architecture.plan import plan_features
from resnet_xf.architecture.rewrite import fold_norms
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.data import photographs
from resnet_xf.errors import ShapeError, WeightsError
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.rungs.forward import gain, output
from resnet_xf.ladder.sides.live import Live


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@settings(max_examples=6, deadline=None)
@given(spec=specs())
def test_a_folded_network_gives_the_same_within_rounding(backend: str, dtype: str, spec: ResNetSpec) -> None:
    try:
        rows = trace(spec, (1, spec.in_channels, *spec.image_size))
    except ShapeError:
        assume(False)
    subject, _, _ = subject_of(spec, None, None, None, 0, None)
    node, weights = fold_norms(
        plan(spec).root, subject.weights | {n: a.astype(dtype) for n, a in subject.weights.items()}
    )
    chosen = get_backend(backend)
    side = Live(subject, chosen)
    built = chosen.build(node, dtype)
    chosen.load(built, weights)
    wanted = output(side, "float64")
    # Folding rounds every kernel once more.
    assert relative_error(chosen.forward(built, subject.images), wanted) <= rounding_bound(
        dtype, 2 * roundings(rows), gain(side)
    )


@pytest.mark.parametrize(
    "name, left",
    [("resnet18", 0), ("resnet50", 0), ("resnet50_v1", 0), ("seresnet50", 0), ("resnet50d", 0), ("resnet18_v2", 10)],
)
def test_of_every_norm_behind_a_convolution_nothing_is_left(name: str, left: int) -> None:
    root = plan(name).root
    node, weights = fold_norms(root, undrawn(root))
    before, after = dict(walk(root)), dict(walk(node))
    assert sum(isinstance(one, Norm) for one in after.values()) == left
    assert [n for n in before if n in after] == list(after)
    assert {n for n, one in before.items() if isinstance(one, Conv)} == {
        n for n, one in after.items() if isinstance(one, Conv)
    }
    assert {n: a.shape for n, a in weights.items()} == all_weight_shapes(node)


def test_the_maps_that_a_backbone_shows_are_kept() -> None:
    root = plan_features("resnet18", ("conv1", "bn1", "layer1"))
    node, weights = fold_norms(root, draw_weights(root, scheme="probe", dtype="float64"))
    assert "bn1" in dict(walk(node))
    assert "layer1.0.bn1" not in dict(walk(node))
    torch = get_backend("torch")
    whole, folded = torch.build(root, "float64").eval(), torch.build(node, "float64").eval()
    torch.load(whole, draw_weights(root, scheme="probe", dtype="float64"))
    torch.load(folded, weights)
    import torch as framework

    shown = framework.from_numpy(photographs((64, 64))).double()
    with framework.no_grad():
        for one, other in zip(whole(shown), folded(shown), strict=True):
            assert relative_error(other.numpy(), one.numpy()) < 1e-14


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(WeightsError, match="missing"):
        fold_norms(plan("resnet18").root, {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})


def test_weights_of_several_dtypes_are_folded_and_keep_them() -> None:
    root = plan("cifar_resnet20").root
    drawn = draw_weights(root, scheme="probe")
    weights = drawn | {name: array.astype("float64") for name, array in drawn.items() if name.startswith("fc.")}
    _, folded = fold_norms(root, weights)
    assert folded["fc.weight"].dtype == np.float64
    assert folded["conv1.weight"].dtype == np.float32
