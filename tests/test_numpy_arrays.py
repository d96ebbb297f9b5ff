"""MXNet's NumPy arrays, which the book's code turns on first: networks built before and after, trained and compared."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch

import resnet_xf
from helpers.runs import TINY, few_digits
from resnet_xf.ladder.capture import script
from resnet_xf_mxnet.numpy_compat import mx

nn, npx = mx.gluon.nn, mx.npx
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
GREY = IMAGES[:, :1]


@pytest.fixture(scope="module", autouse=True)
def exported_in_this_process() -> None:
    """Exported networks run in a real process, for which ``set_np`` is off."""


@pytest.fixture
def set_np() -> Iterator[None]:
    npx.set_np()
    yield
    npx.reset_np()


def outputs(network, images):
    """What a network gives for both kinds of arrays, as NumPy's."""
    given = mx.np.array(images), mx.np.array(images).as_nd_ndarray()
    with mx.autograd.pause(train_mode=False):
        results = [network(x) for x in given]
    assert [type(result) for result in results] == [type(x) for x in given]
    return [result.asnumpy() for result in results]


@pytest.mark.parametrize("built", ["before", "after"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_a_network_takes_both_kinds_of_arrays(built: str, hybrid: bool) -> None:
    if built == "after":
        npx.set_np()
    try:
        network = resnet_xf.build(TINY, "mxnet")
        network.hybridize(hybrid)
        npx.set_np()
        backend = resnet_xf.get_backend("mxnet")
        backend.load(network, resnet_xf.draw_weights(TINY))
        expected = backend.forward(network, GREY)
        for output in outputs(network, GREY):
            np.testing.assert_allclose(output, expected, rtol=1e-6)
    finally:
        npx.reset_np()
    np.testing.assert_allclose(
        network(mx.nd.zeros(GREY.shape) + 1).asnumpy(), backend.forward(network, GREY * 0 + 1), rtol=1e-6
    )


def test_backbones_training_and_fast_inference_work(set_np: None) -> None:
    maps = resnet_xf.features(TINY, "mxnet")(mx.np.array(GREY))
    assert all(isinstance(one, mx.np.ndarray) for one in maps)
    fast = resnet_xf.optimize(TINY, "mxnet", batch=2, image_size=(32, 32))
    assert fast(GREY).shape == (2, TINY.num_classes)
    assert resnet_xf.assert_parity(TINY, image_size=(16, 16)).holds


def test_a_gradient_reaches_the_weights_through_both_kinds(set_np: None) -> None:
    network = resnet_xf.build(TINY, "mxnet")
    gradients = []
    for x in (mx.np.array(GREY), mx.np.array(GREY).as_nd_ndarray()):
        with mx.autograd.record():
            loss = network(x).sum()
        loss.backward()
        gradients.append(network.collect_params()["conv1_weight"].grad().asnumpy())
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(*gradients)


class Layers:
    """The layers of the book's residual block."""

    def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, kernel_size=3, padding=1, strides=strides)
        self.conv2 = nn.Conv2D(channels, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2D(channels, kernel_size=1, strides=strides) if use_1x1conv else None
        self.bn1, self.bn2 = nn.BatchNorm(), nn.BatchNorm()


class Residual(Layers, nn.Block):
    """The book's."""

    def forward(self, x):
        y = npx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return npx.relu(y + (self.conv3(x) if self.conv3 else x))


class HybridResidual(Layers, nn.HybridBlock):
    """The same, hybridizable."""

    def hybrid_forward(self, F, x):  # noqa: N803
        y = F.npx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.npx.relu(y + (self.conv3(x) if self.conv3 else x))


class TorchResidual(torch.nn.Module):
    """The book's other half."""

    def __init__(self, inputs: int, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = torch.nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv3 = torch.nn.Conv2d(inputs, channels, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn1, self.bn2 = torch.nn.BatchNorm2d(channels), torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (self.conv3(x) if self.conv3 else x))


@pytest.mark.parametrize("container, residual", [(nn.Sequential, Residual), (nn.HybridSequential, HybridResidual)])
def test_the_book_s_two_networks_are_the_same(set_np: None, container, residual) -> None:
    module = torch.nn.Sequential(
        torch.nn.Sequential(TorchResidual(3, 3), TorchResidual(3, 8, use_1x1conv=True, strides=2)),
        torch.nn.AdaptiveAvgPool2d((1, 1)),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    inner, block = container(), container()
    inner.add(residual(3), residual(8, use_1x1conv=True, strides=2))
    block.add(inner, nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(5))
    block.initialize()
    block(mx.np.array(IMAGES))
    theirs = resnet_xf.get_backend("mxnet").dump(block)
    resnet_xf.get_backend("torch").load(module, theirs)
    report = resnet_xf.assert_parity((module, block), images=IMAGES)
    assert [rung.status for rung in report.rungs] == ["pass"] * 8
    with torch.no_grad():
        module[0][1].conv2.weight[0, 0, 0, 0] += 1e-3
    failure = resnet_xf.parity((module, block), images=IMAGES).failure
    assert failure is not None
    assert (failure.name, failure.where) == ("weights", "0.1.conv2.weight")


def test_training_gives_the_same_numbers() -> None:
    recipe = msgspec.structs.replace(resnet_xf.get_recipe("digits"), epochs=1)
    data = few_digits(256, 64)
    losses = []
    for turn_on in (npx.reset_np, npx.set_np):
        turn_on()
        losses.append(resnet_xf.train(TINY, data, recipe, backend="mxnet").history[-1].train_loss)
    npx.reset_np()
    assert losses[0] == losses[1]


class Squeezed(HybridResidual):
    """A residual block with arithmetic of ``F.np``, and a gate."""

    def hybrid_forward(self, F, x):  # noqa: N803
        y = super().hybrid_forward(F, F.np.true_divide(x - 0.5, 0.25) * 2 + 1)
        return F.np.tanh(y * F.npx.sigmoid(F.np.mean(y, axis=(2, 3), keepdims=True)))


class Reshaped(HybridResidual):
    """A residual block with a gate whose means become vectors and maps again, by both functions of this name."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Dense(8)

    def hybrid_forward(self, F, x):  # noqa: N803
        y = super().hybrid_forward(F, x)
        means = F.npx.reshape(F.np.mean(y, axis=(2, 3), keepdims=True), (-2, -1))
        y = y * F.npx.reshape(F.npx.sigmoid(means), (-2, -2, 1, 1))
        means = F.np.reshape(F.np.mean(y, axis=(2, 3), keepdims=True), (-1, 8))
        return y * F.np.reshape(F.npx.sigmoid(self.gate(means)), (-1, 8, 1, 1))


@pytest.mark.parametrize("residual", [HybridResidual, Squeezed, Reshaped])
def test_a_graph_exported_after_set_np_is_migrated(set_np: None, residual, tmp_path) -> None:
    network = nn.HybridSequential()
    network.add(nn.Conv2D(8, kernel_size=3), residual(8), nn.GlobalAvgPool2D(), nn.Dense(5))
    network.initialize(mx.init.Xavier())
    network.hybridize()
    expected = network(mx.np.array(IMAGES)).asnumpy()
    network.export(str(tmp_path / "net"))
    (check,) = resnet_xf.convert(tmp_path / "net-0000.params", tmp_path / "net.pth").checks
    assert check.theirs.endswith("net-symbol.json")
    module = resnet_xf.load(tmp_path / "net.pth", "torch").eval()
    np.testing.assert_allclose(module(torch.from_numpy(IMAGES)).detach().numpy(), expected, atol=1e-5)


def build_after_set_np():
    """What a user's module has, which turns NumPy's arrays on itself."""
    npx.set_np()
    network = nn.HybridSequential()
    network.add(nn.Conv2D(8, kernel_size=3), HybridResidual(8), nn.GlobalAvgPool2D(), nn.Dense(5))
    network.initialize(mx.init.Xavier())
    return network


def test_evidence_is_recorded_of_networks_after_set_np(tmp_path) -> None:
    files = [str(tmp_path / name) for name in ("net-symbol.json", "net-0000.params")]
    try:
        network = build_after_set_np()
        network.hybridize()
        network(mx.np.array(IMAGES))
        network.export(str(tmp_path / "net"))
    finally:
        npx.reset_np()
    for number, given in enumerate((files, ["--block", f"{__name__}:build_after_set_np"])):
        assert script.main([*given, "--shape", "3,32,32", "--out", str(tmp_path / f"{number}.npz")]) == 0
        assert not mx.util.is_np_array()
    (tmp_path / "torch").mkdir()
    resnet_xf.convert(files[1], tmp_path / "torch" / "net.pth", verify=False)
    report = resnet_xf.parity_against([tmp_path / "0.npz"], weights=tmp_path / "torch" / "net.pth", level="quick")
    assert report.holds, report.verdict()


@pytest.mark.parametrize("scales", [False, True])
def test_a_network_that_scales_its_images_is_recorded_on_pixels(set_np: None, scales: bool, tmp_path) -> None:
    network = nn.HybridSequential()
    change = (lambda F, x: F.np.true_divide(x - 123, 58)) if scales else (lambda F, x: F.np.tanh(x))  # noqa: N803
    network.add(nn.HybridLambda(change), nn.Dense(5))
    network.initialize()
    network.hybridize()
    network(mx.np.array(IMAGES))
    network.export(str(tmp_path / "net"))
    npx.reset_np()
    files = (str(tmp_path / name) for name in ("net-symbol.json", "net-0000.params"))
    assert script.exported(mx, *files).pixels() == scales


def test_networks_are_saved_read_and_exported_after_set_np(set_np: None, tmp_path) -> None:
    network = resnet_xf.build(TINY, "mxnet")
    network.hybridize()
    expected = network(mx.np.array(GREY)).asnumpy()
    network.save_parameters(str(tmp_path / "tiny.params"))
    network.export(str(tmp_path / "net"))
    other = resnet_xf.build(TINY, "mxnet")
    other.load_parameters(str(tmp_path / "tiny.params"))
    np.testing.assert_array_equal(other(mx.np.array(GREY)).asnumpy(), expected)
    module = resnet_xf.load(tmp_path / "net-0000.params", "torch").eval()
    np.testing.assert_allclose(module(torch.from_numpy(GREY)).detach().numpy(), expected, atol=1e-5)
