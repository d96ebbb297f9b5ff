import numpy as np
import pytest
import torch

from helpers.runs import RECIPE, TINY
from resnet_xf import plan
from resnet_xf.architecture.weights import draw_weights
from resnet_xf.training.evaluation import task_of
from resnet_xf_mxnet.arrays import ndarray
from resnet_xf_mxnet.learner import MxnetLearner
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_mxnet.scaling import LossScaling

PLAN = plan(TINY)
IMAGES = np.random.default_rng(0).standard_normal((4, 1, 12, 12)).astype(np.float32)
TARGETS = np.eye(10)[[1, 2, 3, 4]] / 4


def test_the_law_is_gradscalers() -> None:
    """Both are shown the same gradients, some of which are not finite, and doubling is brought within reach."""
    theirs, ours = torch.amp.GradScaler("cpu", growth_interval=3), LossScaling(enabled=True)
    ours.load({"growth_interval": 3})
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for finite in (True, True, True, True, False, True, False, False, True, True, True):
        theirs.scale(weight.sum() * 0.0)
        weight.grad = torch.full((2,), 1.0 if finite else float("inf"))
        theirs.step(optimizer)
        theirs.update()
        gradients = [ndarray(np.array([1.0, 1.0 if finite else np.inf]), "float32", mx.cpu()) for _ in range(2)]
        assert ours.allows(gradients) is finite
        assert ours.state() == theirs.state_dict()


def test_it_is_off_where_it_is_not_asked_for() -> None:
    scaling = LossScaling(enabled=False)
    assert scaling.allows([ndarray(np.array([np.nan]), "float32", mx.cpu())])
    assert (scaling.scale, scaling.state()) == (1.0, {})


def learner(*, scaled: bool) -> MxnetLearner:
    """On the CPU, whose convolutions have no float16; the scale is a power of two, so that float32 shows its law."""
    made = MxnetLearner(task_of(PLAN, RECIPE, "cpu"))
    made.load(draw_weights(PLAN, 0), {})
    made._scaling = LossScaling(enabled=scaled)
    return made


def test_steps_are_those_without_a_scale() -> None:
    plain, scaled = learner(scaled=False), learner(scaled=True)
    for rate in (0.1, 0.05):
        losses = [one.step(IMAGES, TARGETS, rate)()[0] for one in (plain, scaled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(plain.dump(), scaled.dump(), strict=True):
        for name, array in one.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-6)
    assert scaled.loss_scaling()["_growth_tracker"] == 2


def test_a_step_that_overflows_is_left_out() -> None:
    made = learner(scaled=True)
    made.load_loss_scaling({"scale": 2.0**127})
    before, _ = made.dump()
    made.step(IMAGES * 1e3, TARGETS * 1e3, 0.1)()
    after, velocity = made.dump()
    assert made.loss_scaling()["scale"] == 2.0**126
    assert not velocity
    learning = [name for name in before if not name.rpartition(".")[2].startswith("running")]
    assert all(np.array_equal(before[name], after[name]) for name in learning)
