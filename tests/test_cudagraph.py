"""Training steps as CUDA graphs, and networks changed for tensor cores; all of it needs a GPU."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.weights import draw_weights
from resnet_xf.backend.learner import Learner
from resnet_xf.speed.optimize import optimize
from resnet_xf.training.evaluation import task_of
from resnet_xf.training.recipe import Optimizer, Recipe, rounded, targets
from resnet_xf_torch.cudagraph import WARM_UP, Recorded
from resnet_xf_torch.fused import conv_relu
from resnet_xf_torch.learner import TorchLearner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")

STEPS, BATCH = 4 * WARM_UP, 8


def learner(device: str, preset: str, precision: str) -> TorchLearner:
    """A learner of the book's network with drawn weights."""
    planned = plan("d2l_resnet18")
    optimizer = Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=1e-4)
    task = task_of(planned, Recipe(name="steps", epochs=1, batch_size=BATCH, optimizer=optimizer), device)
    made = TorchLearner(replace(task, preset=preset, precision=precision))
    made.load(draw_weights(planned, 0), {})
    return made


def train(network: Learner) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and the last weights of some steps: rates fall, and every third batch is smaller."""
    rng = np.random.default_rng(0)
    losses = []
    for step in range(STEPS):
        count = BATCH // 2 if step % 3 == 2 else BATCH
        images = rng.random((count, 1, 32, 32), dtype=np.float32)
        goal = targets(rng.integers(0, 10, count), 10, 0.0, count)
        losses.append(network.step(images, goal, rounded(0.001 / (1 + step)))()[0])
        if step == STEPS // 2:
            network.load(*network.dump())
    return losses, dict(network.dump()[0])


def test_recorded_steps_are_the_steps_of_the_cpu() -> None:
    recorded, plain = learner("cuda", "tuned", "float64"), learner("cpu", "eager", "float64")
    assert "steps as one CUDA graph" in recorded.steps
    (losses, weights), (expected, reference) = train(recorded), train(plain)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for name, array in reference.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("preset", "precision"), [("best", "bfloat16"), ("tuned", "float32"), ("best", "float32")])
def test_faster_steps_lead_to_the_same_losses(preset: str, precision: str) -> None:
    losses, _ = train(learner("cuda", preset, precision))
    expected, _ = train(learner("cpu", "eager", "float32"))
    np.testing.assert_allclose(losses, expected, rtol=0.05 if precision == "bfloat16" else 1e-3)


def test_a_function_that_waits_for_the_gpu_is_called_as_it_is() -> None:
    function = Recorded(lambda x: (x * float(x.sum()),))
    x = torch.ones(3, device="cuda")
    for n in range(2 * WARM_UP):
        expected = pytest.warns(UserWarning, match="no CUDA graph") if n == WARM_UP else nullcontext()
        with expected:
            (output,) = function(n * x)
        torch.testing.assert_close(output.cpu(), torch.full((3,), 3.0 * n * n))


def test_each_shape_has_its_own_outputs() -> None:
    function = Recorded(lambda x: (x + 1,))
    for n in range(3 * WARM_UP):
        for size in (2, 5):
            torch.testing.assert_close(
                function(torch.full((size,), float(n), device="cuda"))[0].cpu(), torch.full((size,), n + 1.0)
            )


def test_the_fused_kernel_computes_what_the_cpu_computes() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=rng) for shape in ((2, 16, 9, 9), (24, 16, 3, 3), (24,)))
    for shortcut in (None, torch.randn(2, 24, 5, 5, generator=rng)):
        inputs = [None if one is None else one.bfloat16() for one in (x, shortcut, weight, bias)]
        moved = [one if one is None else one.cuda() for one in inputs]
        moved = [
            one.to(memory_format=torch.channels_last) if one is not None and one.ndim == 4 else one for one in moved
        ]
        expected = conv_relu(*(None if one is None else one.float() for one in inputs), [2, 2], [1, 1])
        torch.testing.assert_close(conv_relu(*moved, [2, 2], [1, 1]).float().cpu(), expected, rtol=0.02, atol=0.05)


def test_the_best_inference_fuses_and_is_right() -> None:
    network = optimize("resnet18", "torch", precision="bfloat16", batch=4, device="cuda")
    assert {"stem on 4×4 pixels", "convolutions fused with sums and ReLUs"} <= set(network.steps)
    assert network.error < 0.02
