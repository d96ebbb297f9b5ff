import sys

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from helpers.runs import RECIPE, TINY, few_digits
from resnet_xf import build, draw_weights, get_backend, optimize, train
from resnet_xf.architecture.measures import relative_error
from resnet_xf.backend.fast import PRECISIONS, PRESETS, FastTask
from resnet_xf.data import Batches, Transform
from resnet_xf.errors import BackendError, MissingExtraError, ShapeError, WeightsError
from resnet_xf.training.recipe import Augmentation
from resnet_xf_mxnet.arrays import ndarray
from resnet_xf_mxnet.numpy_compat import mx

WEIGHTS = draw_weights(TINY, 1)
SIZE = (32, 32)
IMAGES = np.random.default_rng(0).standard_normal((4, TINY.in_channels, *SIZE)).astype(np.float32)
HERE = [("torch", "float32", True), ("torch", "bfloat16", False), ("torch", "int8", True)]
HERE += [("mxnet", "float32", True), ("mxnet", "bfloat16", True), ("mxnet", "int8", True)]
CLOSE = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.3}


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    return get_backend("torch").forward(build(TINY, "torch", weights=WEIGHTS, dtype="float64"), IMAGES)


@pytest.fixture(scope="module")
def fast():
    """Each made once, as compilers take seconds."""
    made: dict[object, object] = {}

    def one(backend: str, precision: str, compiles: bool):
        key = backend, precision, compiles
        if key not in made:
            made[key] = optimize(
                TINY,
                backend,
                weights=WEIGHTS,
                precision=precision,
                batch=4,
                preset="best" if compiles else "tuned",
                calibration=IMAGES,
            )
        return made[key]

    return one


@pytest.mark.parametrize("backend, precision, compiles", HERE)
def test_outputs_are_the_network_s_within_the_precision(fast, wanted, backend, precision, compiles) -> None:
    network = fast(backend, precision, compiles)
    assert (network.backend, network.precision, network.device) == (backend, precision, "cpu")
    assert ("folded norms" in network.steps) == compiles
    assert (precision in network.steps) == (precision != "float32")
    got = network(IMAGES)
    assert (got.dtype, got.shape) == (np.float32, (4, TINY.num_classes))
    assert 0 < relative_error(got, wanted) < CLOSE[precision]
    assert 0 < network.error < CLOSE[precision]
    assert relative_error(network(IMAGES[:1]), wanted[:1]) < CLOSE[precision]  # another batch than it is tuned for


def test_a_native_tensor_gives_a_native_tensor(fast) -> None:
    ours = fast("torch", "float32", True)
    given = ours(torch.from_numpy(IMAGES))
    assert isinstance(given, torch.Tensor)
    np.testing.assert_array_equal(given.numpy(), ours(IMAGES))
    theirs = fast("mxnet", "float32", True)
    output = theirs(ndarray(IMAGES, "float32", mx.cpu()))
    assert isinstance(output, mx.nd.NDArray)
    np.testing.assert_array_equal(output.asnumpy(), theirs(IMAGES))


def test_none_of_them_trains(fast) -> None:
    for backend in ("torch", "mxnet"):
        network = fast(backend, "float32", True)
        with pytest.raises(BackendError, match="an optimised network cannot be trained: its norms are gone"):
            network.train()
        assert network.train(False) is network.eval()
    with pytest.raises(BackendError, match="cannot be trained"):
        fast("torch", "float32", True)(torch.from_numpy(IMAGES).requires_grad_())
    assert not fast("torch", "float32", True)(torch.from_numpy(IMAGES)).requires_grad
    with mx.autograd.record(), pytest.raises(BackendError, match="cannot be trained"):
        fast("mxnet", "float32", True)(ndarray(IMAGES, "float32", mx.cpu()))


@pytest.fixture(scope="module")
def trained():
    """Weights that know digits, and the digits as the network is shown them: to calibrate by, and to test with."""
    data = few_digits(1000, 300)
    look = Transform((12, 12), 1, "resize", False, 0, (0.3,), (0.37,))
    numbers = [
        np.concatenate([b.images for b in Batches(split, look, 100, seed=0)]) for split in (data.train, data.test)
    ]
    recipe = replace(RECIPE, augmentation=Augmentation(mean=(0.3,), std=(0.37,)), label_smoothing=0.0, epochs=8)
    return train(TINY, data, recipe, backend="torch", device="cpu").weights, *numbers


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_int8_gives_a_trained_network_s_answers_on_real_digits(trained, backend: str) -> None:
    weights, seen, unseen = trained
    answers = [
        optimize(
            TINY,
            backend,
            weights=weights,
            precision=precision,
            batch=len(unseen),
            preset="best" if compiles else "tuned",
            calibration=seen,
        )(unseen).argmax(1)
        for precision, compiles in (("float32", False), ("int8", True))
    ]
    assert len(set(answers[0])) > 5
    assert (answers[0] == answers[1]).mean() >= 0.95


@pytest.mark.parametrize(
    "says, options",
    {
        f"no precision is called 'half'; choose one of {', '.join(PRECISIONS)}": {"precision": "half"},
        "torch has no float16 that is fast on a CPU": {"precision": "float16", "backend": "torch"},
        "mxnet has no fast tf32 on cpu; choose one of float32, bfloat16, int8": {
            "precision": "tf32",
            "backend": "mxnet",
        },
        "torch computes in int8 where it compiles": {"precision": "int8", "backend": "torch", "preset": "tuned"},
        "so there is no cuda:99; choose cpu": {"device": "cuda:99"},
    }.items(),
)
def test_what_cannot_be_had_is_refused_in_a_line(says: str, options) -> None:
    with pytest.raises(BackendError, match=says) as refused:
        optimize(TINY, image_size=SIZE, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: {name: torch.from_numpy(a) for name, a in w.items()}, "is a Tensor; expected a NumPy array"),
        (list, "weights: expected a mapping of names to arrays, got list"),
        (lambda w: {name: a for name, a in w.items() if name != "fc.bias"}, r"missing: fc\.bias$"),
        (lambda w: w | {"fc.bias": np.full(10, 1e39)}, r"^fc\.bias has the value 1e\+39, and float32 ends at 3.4"),
    ],
    ids=["tensors", "list", "missing", "large"],
)
def test_weights_that_no_network_can_have_are_refused_in_every_preset(change, says: str, preset: str) -> None:
    with pytest.raises(WeightsError, match=says):
        optimize(TINY, "torch", weights=change(WEIGHTS), preset=preset, calibration=IMAGES)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="batch: at least one image"):
        optimize(TINY, batch=0)
    fast = optimize(TINY, "torch", preset="eager", image_size=SIZE)
    for images in (IMAGES[:0], IMAGES[:, :, 1:], IMAGES[0]):
        with pytest.raises(ShapeError, match=r"images: this network was optimised for \(N, 1, 32, 32\), N at least 1"):
            fast(images)
    with pytest.raises(ShapeError, match="calibration: expected images"):
        optimize(TINY, calibration=IMAGES[:0])
    with pytest.raises(ShapeError, match="calibration: expected images of 16×16 pixels, got"):
        optimize(TINY, calibration=IMAGES, image_size=(16, 16))


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_zeros_are_no_int8(monkeypatch, backend: str) -> None:
    class Zeros:
        device, steps = "cpu", ()

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), TINY.num_classes), np.float32)

    chosen = get_backend(backend)
    monkeypatch.setattr(type(chosen.bench), "fast", lambda self, task: Zeros())
    with pytest.raises(BackendError, match=r"in int8: the optimised network's outputs are off by 1 of the largest"):
        optimize(TINY, chosen, precision="int8", image_size=SIZE)


def test_a_quantiser_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e.quantize_pt2e", None)
    with pytest.raises(
        MissingExtraError, match=r"torchao, which is not installed; run: pip install 'resnet-xf\[int8\]'"
    ):
        optimize(TINY, "torch", precision="int8", image_size=SIZE)


def test_outputs_that_are_not_the_network_s_are_never_handed_out(monkeypatch) -> None:
    backend = get_backend("torch")
    real = backend.bench.fast

    def broken(self, task: FastTask):
        task.network.fc.weight.data.neg_()
        return real(task)

    monkeypatch.setattr(type(backend.bench), "fast", broken)
    with pytest.raises(BackendError, match=r"torch in float32: the optimised network's outputs are off by \S+ of the"):
        optimize(TINY, backend, preset="tuned", image_size=SIZE)
