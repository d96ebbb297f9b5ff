"""Each named spec against the network that it stands for."""

import numpy as np
import pytest

from gluon_names import zoo_weights
from resnet_xf import build, get_backend, list_models, photographs
from resnet_xf.parity.measures import relative_error
from resnet_xf_mxnet.loan import mx


def test_the_zoo_holds_the_networks_of_the_references() -> None:
    assert list_models()[:5] == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert {"resnet50_v1", "d2l_resnet18"} < set(list_models())


@pytest.fixture(scope="module")
def gluon_zoo() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """resnet50_v1 of MXNet's own model zoo: its weights, and its float64 outputs on the photographs."""
    mx.random.seed(0)
    network = mx.gluon.model_zoo.vision.resnet50_v1()
    network.initialize(mx.init.Xavier())
    shown = mx.nd.empty((2, 3, 224, 224), dtype="float64")
    shown[:] = photographs()
    network(shown[:1].astype("float32"))
    for name, param in network._collect_params_with_prefix().items():
        if param.data().ndim == 1:  # as a trained network's: no scale is 1 and no bias 0
            low, high = (-0.2, 0.2) if name.endswith(("beta", "bias", "mean")) else (0.5, 1.5)
            param.set_data(mx.nd.random.uniform(low, high, param.shape))
    network.cast("float64")
    return zoo_weights(network), network(shown).asnumpy()


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_gluons_own_resnet50_v1_gives_the_same_outputs(gluon_zoo, backend: str) -> None:
    weights, wanted = gluon_zoo
    network = build("resnet50_v1", backend, weights=weights, dtype="float64")
    assert relative_error(get_backend(backend).forward(network, photographs()), wanted) < 1e-11


@pytest.mark.parametrize("name", ["torch", "mxnet"])
def test_the_books_resnet18_is_what_its_notebook_builds(name: str) -> None:
    """The notebook's network, written here as the book describes it, from PyTorch's own layers."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, width: int, stride: int = 1) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride)) if channels != width else None
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    stages = {
        f"layer{i}": [(64 * 2 ** max(0, i - 2), 64 * 2 ** (i - 1)), (64 * 2 ** (i - 1),) * 2] for i in range(1, 5)
    }
    book = nn.Sequential()
    for part, module in (("conv1", nn.Conv2d(1, 64, 7, 2, 3)), ("bn1", nn.BatchNorm2d(64)), ("act1", nn.ReLU())):
        book.add_module(part, module)
    book.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    for part, blocks in stages.items():
        book.add_module(part, nn.Sequential(*(Block(a, b, 2 if a != b else 1) for a, b in blocks)))
    book.add_module("pool", nn.AdaptiveAvgPool2d(1))
    book.add_module("flatten", nn.Flatten())
    book.add_module("fc", nn.Linear(512, 10))

    from resnet_xf.data import digits

    book.double().eval()
    weights = {k: v.numpy() for k, v in book.state_dict().items() if not k.endswith("num_batches_tracked")}
    network = build("d2l_resnet18", name, weights=weights, dtype="float64")
    with torch.no_grad():
        wanted = book(torch.from_numpy(digits()).double()).numpy()
    assert relative_error(get_backend(name).forward(network, digits()), wanted) < 1e-11
