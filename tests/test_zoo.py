"""Each named spec against the network that it stands for."""

import gc
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.narrow import narrowed
from resnet_xf import assert_parity, build, draw_weights, features, get_backend, get_spec, list_models, plan, trace
from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.trace import count_macs
from resnet_xf.architecture.zoo import ALIASES, REFERENCE, ZOO, with_output_stride
from resnet_xf.backend.observe import capture_layers, trace_network
from resnet_xf.data import digits, photographs
from resnet_xf.errors import SpecError
from resnet_xf.formats.files import CheckpointFile, read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_torch import builder

BY_REFERENCE = {source: [n for n, s in REFERENCE.items() if s == source] for source in set(REFERENCE.values())}


@pytest.fixture(autouse=True)
def collected():
    """Large networks that refer to themselves are freed at once, and not when Python happens to."""
    yield
    gc.collect()
    gc.freeze()  # so that the next one looks at new objects alone


def test_the_zoo_holds_the_whole_family() -> None:
    assert set(BY_REFERENCE) == {"torchvision", "timm", "gluon", "gluoncv", "symbol", "insightface", "d2l"}
    assert set(list_models("resnet*_v[12]")) == set(BY_REFERENCE["gluon"])
    assert len(list_models("cifar_*")) == 13
    assert get_spec("cifar_resnet20") is ZOO["cifar_resnet20_v1"]
    assert not set(ALIASES) & set(ZOO)


def reference(name: str):
    """torchvision's or timm's own network, with nothing at its first value."""
    import timm
    import torch
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):  # to draw first values takes longer than to run the network
        if REFERENCE[name] == "torchvision":
            network = torchvision.models.get_model(name, weights=None)
        else:
            base, _, stride = name.partition("_os")
            network = timm.create_model(base, **({"output_stride": int(stride)} if stride else {}))
    network.to_empty(device="cpu")
    tensors, prime = network.state_dict(), 1_000_003  # a prime number, so that no two filters are the same
    drawn = torch.randn(prime).repeat(max(map(torch.numel, tensors.values())) // prime + 2)
    with torch.no_grad():
        for number, (key, tensor) in enumerate(tensors.items()):
            if not tensor.is_floating_point():
                tensor.zero_()
            elif tensor.ndim == 1:
                tensor.uniform_(*((-0.2, 0.2) if key.endswith(("bias", "mean")) else (0.5, 1.5)))
            else:
                values = drawn[7919 * number % prime :][: tensor.numel()]
                torch.mul(values.view_as(tensor), tensor[0].numel() ** -0.5, out=tensor)
    return network.eval()


@pytest.mark.parametrize("name", BY_REFERENCE["torchvision"] + BY_REFERENCE["timm"])
def test_torchvisions_and_timms_weights_load_strictly_and_give_their_outputs_to_the_bit(name: str) -> None:
    import torch

    theirs = reference(name)
    with torch.device("meta"):  # every value comes from the state_dict
        ours = builder.build(plan(name).root).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    shown = torch.from_numpy(photographs((64, 48)))
    with torch.inference_mode():
        assert torch.equal(ours(shown), theirs(shown))
    whole = trace(name, (1, 3, 64, 48))[0]
    observed = trace_network(get_backend("torch"), theirs, photographs((64, 48))[:1]).layers.values()
    assert whole.parameters == sum(p.numel() for p in theirs.parameters())
    assert whole.macs == sum(count_macs(layer.weight_shapes, layer.output_shape) for layer in observed)


def test_feature_maps_are_timms() -> None:
    import timm
    import torch

    torch.manual_seed(0)
    theirs = timm.create_model("resnet50d", features_only=True, zero_init_last=False).eval()
    weights = {k: v.numpy() for k, v in theirs.state_dict().items()} | {
        "fc.weight": np.zeros((1000, 2048), np.float32),
        "fc.bias": np.zeros(1000, np.float32),
    }
    stages = theirs.feature_info.module_name()
    ours = features("resnet50d", "torch", out=stages, weights=weights).eval()
    shown = torch.from_numpy(photographs((96, 80)))
    with torch.inference_mode():
        maps, wanted = ours(shown), theirs(shown)
    assert stages == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert all(torch.equal(got, one) for got, one in zip(maps, wanted, strict=True))


@pytest.mark.parametrize("name, stride", [("resnet50d", 8), ("resnet18", 16), ("seresnext50_32x4d", 16)])
def test_any_output_stride_is_timms(name: str, stride: int) -> None:
    import timm
    import torch

    torch.manual_seed(0)
    options = {"output_stride": stride, "zero_init_last": False}
    theirs = timm.create_model(name, **options).eval()
    ours = get_backend("torch").build(plan(with_output_stride(get_spec(name), stride)).root).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    shown = torch.from_numpy(photographs((80, 96)))
    with torch.inference_mode():
        assert torch.equal(ours(shown), theirs(shown))
    depths = zip(get_spec(name).stages, (1, 1, 2, 2), strict=True)  # later blocks repeat, and the last stages dilate
    short = tuple(msgspec.structs.replace(stage, depth=depth) for stage, depth in depths)
    narrow = narrowed(msgspec.structs.replace(get_spec(name), stages=short), 4)
    spec = with_output_stride(narrow, stride)
    assert_parity(spec, level="quick", image_size=(64, 64))


def test_a_dilated_network_computes_finer_maps_from_the_same_weights() -> None:
    dilated = with_output_stride(get_spec("resnet18"), 8)
    assert dilated.name == "resnet18_os8"
    weights = draw_weights("resnet18")
    network = build(dilated, "torch", weights=weights)
    captured = capture_layers(get_backend("torch"), network, photographs((64, 64)), ["layer4"])
    assert captured["layer4"].output.shape == (2, 512, 8, 8)
    with pytest.raises(SpecError, match="cannot have an output stride of 64; it comes to 32"):
        with_output_stride(get_spec("resnet18"), 64)


@pytest.mark.parametrize("name", BY_REFERENCE["gluon"])
def test_gluons_own_names_and_shapes_tell_the_network(name: str) -> None:
    network = mx.gluon.model_zoo.vision.get_model(name)
    network.infer_shape(mx.nd.zeros((1, 3, 64, 64)))
    arrays = {
        key: np.broadcast_to(np.float32(not key.endswith(("beta", "bias", "mean"))), param.shape)
        for key, param in network._collect_params_with_prefix().items()
    }
    assert identify(CheckpointFile(Path("zoo.params"), "params", arrays)).plan.spec == get_spec(name)


@pytest.mark.parametrize("name", BY_REFERENCE["gluon"])
def test_gluons_own_networks_give_the_same_outputs_on_both_backends(name: str, tmp_path) -> None:
    """Gluon's own classes and depths, an eighth of the channels."""
    zoo, spec = mx.gluon.model_zoo.vision.resnet, narrowed(get_spec(name), 8)
    number, version = re.fullmatch(r"resnet(\d+)_v(\d)", name).groups()
    kind, depths, channels = zoo.resnet_spec[int(number)]
    make, blocks = zoo.resnet_net_versions[int(version) - 1], zoo.resnet_block_versions[int(version) - 1]
    network = make(blocks[kind], depths, [width // 8 for width in channels])
    mx.random.seed(0)
    shown = mx.nd.empty((2, 3, 64, 64), dtype="float64")
    shown[:] = photographs((64, 64))
    network.initialize(mx.init.Xavier())
    network(shown.astype("float32"))
    for key, param in network._collect_params_with_prefix().items():
        if (len(param.shape) == 1 and param.grad_req != "null") or key.endswith(("mean", "var")):
            low, high = (-0.2, 0.2) if key.endswith(("beta", "bias", "mean")) else (0.5, 1.5)
            param.set_data(mx.nd.random.uniform(low, high, param.shape))
    network.save_parameters(str(tmp_path / "zoo.params"))
    network.cast("float64")
    wanted = network(shown).asnumpy()

    weights = identify(read_checkpoint(tmp_path / "zoo.params"), spec).weights
    for backend in ("torch", "mxnet"):
        ours = build(spec, backend, weights=weights, dtype="float64")
        assert relative_error(get_backend(backend).forward(ours, photographs((64, 64))), wanted) < 1e-11


def test_gluoncvs_v1b_to_v1s_are_timms() -> None:
    for ours, timms in (("v1b", ""), ("v1c", "c"), ("v1d", "d"), ("v1s", "s")):
        assert plan(f"resnet50_{ours}").root == plan(f"resnet50{timms}").root


def test_gluoncvs_cifar_networks_differ_as_they_do_there() -> None:
    v1, v2, wide = (get_spec(n) for n in ("cifar_resnet20_v1", "cifar_resnet20_v2", "cifar_wideresnet16_10"))
    names = {spec.name: [name for name, _ in plan(spec).root.children] for spec in (v1, v2, wide)}
    layers = ["layer1", "layer2", "layer3"]
    head = ["global_pool", "flatten", "fc"]
    assert names[v1.name] == ["conv1", "bn1", *layers, *head]  # no ReLU after the stem
    assert names[v2.name] == ["input_norm", "conv1", *layers, "norm", "act", *head]
    assert names[wide.name] == ["input_norm", "conv1", "bn1", *layers, "norm", "act", *head]
    assert (v2.shortcut_from, wide.shortcut_from) == ("input", "preactivation")


def book_network(block, stages):
    """A network of the book from PyTorch's own layers, under our names."""
    from torch import nn

    book = nn.Sequential()
    for part, module in (("conv1", nn.Conv2d(1, 64, 7, 2, 3)), ("bn1", nn.BatchNorm2d(64)), ("act1", nn.ReLU())):
        book.add_module(part, module)
    book.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    channels = 64
    for index, width in enumerate(stages, start=1):
        first = block(channels, width, 1 if index == 1 else 2)
        book.add_module(f"layer{index}", nn.Sequential(first, block(width, width, 1)))
        channels = width
    for part, module in (("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(512, 10))):
        book.add_module(part, module)
    return book.double().eval()


def book_blocks():
    """The book's residual block and its ResNeXt block, as its text describes them."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride)) if channels != width else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNeXtBlock(nn.Module):
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 1)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=width // 16)
            self.conv3 = nn.Conv2d(width, width, 1)
            self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(width) for _ in range(3))
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride), nn.BatchNorm2d(width))
            self.downsample = shortcut if channels != width else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    return {"d2l_resnet18": Block, "d2l_resnext": ResNeXtBlock}


@pytest.mark.parametrize("name", BY_REFERENCE["d2l"])
@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_the_books_networks_are_what_it_builds(name: str, backend: str) -> None:
    import torch

    book = book_network(book_blocks()[name], (64, 128, 256, 512))
    weights = {k: v.numpy() for k, v in book.state_dict().items()}
    network = build(name, backend, weights=weights, dtype="float64")
    with torch.no_grad():
        wanted = book(torch.from_numpy(digits()).double()).numpy()
    assert relative_error(get_backend(backend).forward(network, digits()), wanted) < 1e-11


def test_a_variant_by_composition_simply_works() -> None:
    """Pre-activation with squeeze-excitation and an averaging shortcut in a CIFAR stem."""
    from resnet_xf import SqueezeExcitation

    spec = msgspec.structs.replace(get_spec("cifar_resnet20"), name="mine", preactivation=True, shortcut="avg_conv")
    spec = msgspec.structs.replace(spec, se=SqueezeExcitation(), shortcut_norm=True)
    assert np.isfinite(assert_parity(spec, level="quick").rungs[-1].value)
