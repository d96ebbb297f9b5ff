import copy
import re
import warnings
from ast import literal_eval
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from helpers import graphs
from resnet_xf import assert_parity, get_backend, load, parity, suggest_names
from resnet_xf.data import photographs
from resnet_xf.errors import DataError, RecipeError, SpecError, WeightsError
from resnet_xf.ladder.pair import pairs
from resnet_xf.ladder.short_run import CURVE, LOCKSTEP
from resnet_xf_mxnet.arrays import ndarray, weights_of
from resnet_xf_mxnet.numpy_compat import mx

g = mx.gluon.nn
CPU = mx.cpu()
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 12, 12), np.float32)
NAMES = {"0": "conv", "1": "norm", "4": "second", "5": "norm2", "8": "head"}


class Hand(nn.Module):
    """Written as people do: registered in another order than it runs, a module that runs twice, a view."""

    def __init__(self, stride: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 9, 5)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 8, 3, stride=stride, padding=1, bias=False)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, eps=1e-4, momentum=0.2)
        self.norm2 = nn.BatchNorm2d(8)
        self.unused = nn.Linear(4, 4)
        self.dropout = dropout
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if name.endswith(("norm.bias", "norm2.bias", "running_mean")):
                    tensor.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.norm2(self.second(nn.functional.max_pool2d(x, 2))))
        x = nn.functional.dropout(x.view(len(x), -1), self.dropout, self.training)
        return self.head(x)


def hand_gluon(eps: float = 1e-4, momentum: float = 0.8, relu: str = "relu", dropout: float = 0.0, stride: int = 2):
    """The same in Gluon, whose shapes wait for a first run."""
    net = g.HybridSequential()
    net.add(
        g.Conv2D(6, 3, padding=1),
        g.BatchNorm(epsilon=eps, momentum=momentum),
        g.Activation(relu),
        g.MaxPool2D(),
        g.Conv2D(8, 3, stride, 1, use_bias=False),
        g.BatchNorm(),
        g.Activation("relu"),
        g.Flatten() if not dropout else g.Dropout(dropout),
        g.Dense(5),
    )
    net.initialize()
    return net


def moved(module: nn.Module, block, names: dict[str, str], images: np.ndarray = IMAGES):
    """The block with the module's weights, as a person moves them."""
    block(ndarray(images, "float32", CPU))
    for name, param in weights_of(block).items():
        layer, _, word = name.rpartition(".")
        param.set_data(ndarray(module.state_dict()[f"{names.get(layer, layer)}.{word}"].numpy(), "float32", CPU))
    return block


@pytest.fixture(scope="module")
def module() -> Hand:
    torch.manual_seed(0)
    return Hand()


def test_a_pair_by_hand_is_proven(module: Hand) -> None:
    report = assert_parity((module, moved(module, hand_gluon(), NAMES)), names=NAMES, images=IMAGES)
    assert [rung.number for rung in report.rungs] == list(range(1, 9))
    assert report.rungs[0].detail.startswith("6 rows; 993 parameters")
    assert report.rungs[1].detail.endswith("each network's own are the same")
    assert report.network == "Hand and HybridSequential"
    assert report.weights == "torch's own; not compared, since they never run: unused"
    assert report.spec is None
    assert [layer.kind for layer in report.layers] == ["conv", "norm", "conv", "norm", "linear"]


def test_full_goes_up_to_the_learning_curves(module: Hand) -> None:
    report = assert_parity((module, copy.deepcopy(module)), images=IMAGES, level="full")
    assert [rung.name for rung in report.rungs][-2:] == ["lock-step", "learning curves"]


def test_the_order_of_the_two_and_their_frameworks_do_not_matter(module: Hand) -> None:
    block = moved(module, hand_gluon(), NAMES)
    back = {theirs: own for own, theirs in NAMES.items()}
    assert list(assert_parity((block, module), names=back, images=IMAGES, level="quick").backends) == ["mxnet", "torch"]
    report = assert_parity((module, copy.deepcopy(module)), images=IMAGES)
    assert list(report.backends) == ["first torch", "second torch"]


def test_the_networks_themselves_are_not_touched(module: Hand) -> None:
    own = copy.deepcopy(module).double().eval()
    own.norm.train()
    own.conv.weight.requires_grad_(False)
    seen: list[int] = []
    own.register_forward_hook(lambda *_: seen.append(1))
    block = moved(module, hand_gluon(), NAMES)
    block.hybridize(static_alloc=True)
    trainer = mx.gluon.Trainer(block.collect_params(), "sgd")
    shown = ndarray(IMAGES, "float32", CPU)
    before = block(shown).asnumpy()
    compiled = block._cached_op
    state = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    arrays = {name: param.data().asnumpy() for name, param in weights_of(block).items()}

    assert_parity((own, block), names=NAMES, images=IMAGES)

    assert all(torch.equal(tensor, state[name]) for name, tensor in own.state_dict().items())
    assert [m.training for m in (own, own.norm, own.conv)] == [False, True, False]
    assert not own.conv.weight.requires_grad
    assert own.conv.weight.grad is None
    assert not own.conv._forward_hooks
    assert all(np.array_equal(param.data().asnumpy(), arrays[name]) for name, param in weights_of(block).items())
    assert block._active
    assert block._cached_op is compiled
    assert not block._forward_hooks
    assert block[0].weight._trainer is trainer
    assert np.array_equal(block(shown).asnumpy(), before)


def test_float64_weights_are_rounded_and_that_is_said(module: Hand) -> None:
    report = parity((copy.deepcopy(module).double(), copy.deepcopy(module)), images=IMAGES, level="quick")
    assert report.holds
    assert report.weights.startswith("first torch's own, rounded to float32")


def one_changed(block):
    block[4].weight.data()[1, 2] *= 1.001
    return block


PLANTED = {
    "one weight": (one_changed, {}, {}, (2, "second.weight"), "48 |mxnet's own is not torch's, by up to .*; 1 of 13 differ"),
    "eps": (None, {"eps": 1e-5}, {}, (1, "norm"), "eps 0.0001 in torch, 1e-05 in mxnet"),
    "momentum": (None, {"momentum": 0.9}, {}, (1, "norm"), "momentum 0.2 in torch, 0.1 in mxnet"),
    "another activation, not named": (None, {"relu": "softrelu"}, {}, (4, "second"), "mxnet is not torch"),
}  # fmt: skip


@pytest.mark.parametrize("change, how, names, expected, says", PLANTED.values(), ids=PLANTED)
def test_a_planted_difference_is_found(module: Hand, change, how, names, expected, says) -> None:
    block = moved(module, hand_gluon(**how), NAMES)
    report = parity((module, change(block) if change else block), names=NAMES | names, images=IMAGES)
    assert (report.failure.number, report.failure.where) == expected
    assert any(part in report.verdict() or _found(part, report.verdict()) for part in says.split("|"))


def _found(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def test_a_stride_and_a_relu_that_are_named() -> None:
    def small(stride: int = 1, relu: type[nn.Module] = nn.ReLU) -> nn.Module:
        torch.manual_seed(1)
        layers = nn.Conv2d(3, 4, 3, stride), nn.BatchNorm2d(4), relu(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(4, 3))

    assert_parity((small(), small()), images=IMAGES, level="quick")
    report = parity((small(), small(stride=2)), images=IMAGES)
    assert (report.failure.number, report.failure.where) == (1, "0")
    report = parity((small(), small(relu=nn.Identity)), images=IMAGES)
    assert (report.failure.number, report.failure.where) == (4, "2")


def test_a_difference_behind_zeros_is_found(module: Hand) -> None:
    dead = copy.deepcopy(module)
    nn.init.zeros_(dead.norm2.weight)
    nn.init.zeros_(dead.norm2.bias)
    block = moved(dead, hand_gluon(relu="softrelu"), NAMES)
    report = parity((dead, block), names=NAMES, images=IMAGES)
    assert (report.failure.number, report.failure.where) == (4, "second")
    assert "hide nothing" in report.verdict()


def test_a_name_map_is_proposed_and_a_missing_one_asked_for(module: Hand) -> None:
    assert suggest_names(module, hand_gluon(), IMAGES) == NAMES
    with pytest.raises(WeightsError) as caught:
        parity((module, hand_gluon()), names={"0": "conv"}, images=IMAGES)
    message, _, pasted = str(caught.value).partition(": names=")
    assert message.startswith(
        "layers with weights that have no partner: norm (6,) (6,) (6,) (6,), second (8, 6, 3, 3), "
    )
    assert "of torch, 1 (6,)" in message
    assert literal_eval(pasted) == NAMES


@pytest.mark.parametrize(
    "names, says",
    [
        ({"9": "head"}, "no layer of mxnet that runs is called '9'"),
        ({"8": "heads"}, "no layer of torch that runs is called 'heads'; did you mean head"),
        (NAMES | {"6": "head"}, "'8' and '6' are both named 'head'; name one"),
        (NAMES | {"2": "relu"}, "'2' runs 1 times in mxnet and 'relu' 2 times in torch; leave it out"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(module: Hand, names: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parity((module, hand_gluon()), names=names, images=IMAGES)


def test_dropout_is_refused_beyond_quick(module: Hand) -> None:
    block = hand_gluon(dropout=0.5)
    assert_parity((module, moved(module, block, NAMES)), names=NAMES, images=IMAGES, level="quick")
    with pytest.raises(SpecError, match="mxnet: 7 drops out at random in training, with rate 0.5; set its rate to 0"):
        parity((module, block), names=NAMES, images=IMAGES)
    torch.manual_seed(0)
    with pytest.raises(SpecError, match="first torch: one training step, taken twice, gives .*; if it drops out"):
        parity((Hand(dropout=0.5), Hand()), images=IMAGES)


class Auxiliary(nn.Sequential):
    """Has a second output in training, as networks with an auxiliary head."""

    def forward(self, x: torch.Tensor) -> Any:
        output = super().forward(x)
        return (output, output) if self.training else output


def test_a_network_with_two_outputs_in_training_fails_on_gradients() -> None:
    torch.manual_seed(0)
    module = Auxiliary(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    failure = parity((module, copy.deepcopy(module)), images=IMAGES).failure
    assert failure is not None
    assert (failure.number, failure.name) == (7, "gradients")
    assert failure.detail.startswith("it does not run: ")


def test_a_norm_that_is_given_what_another_norm_gave_is_held_to_its_deviation() -> None:
    """Its means are 0 but for rounding."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    block = g.HybridSequential()
    block.add(g.Conv2D(4, 3), g.BatchNorm(), g.Conv2D(6, 1, use_bias=False), g.BatchNorm(), g.Activation("relu"))
    block.add(g.GlobalAvgPool2D(), g.Flatten(), g.Dense(5))
    block.initialize()
    names = suggest_names(module, block, IMAGES)
    report = assert_parity((module, moved(module, block, names)), names=names, images=IMAGES)
    assert len(report.rungs) == 8


def test_a_norm_that_keeps_a_plain_mean_is_refused_beyond_quick() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.Linear(400, 5))
    pair = module, copy.deepcopy(module)
    assert_parity(pair, images=IMAGES, level="quick")
    with pytest.raises(SpecError, match="first torch: 1 keeps a plain mean"):
        parity(pair, images=IMAGES)


def test_a_pair_learns_at_the_rates_of_our_own_networks(module: Hand) -> None:
    subject, *_ = pairs.pair_of((module, copy.deepcopy(module)), {}, IMAGES, None, 0, "quick", None)
    assert subject.lockstep_run.learning_rate == LOCKSTEP["learning_rate"]
    assert subject.curve_run.learning_rate == CURVE["learning_rate"]


class Several(nn.Conv2d):
    """Returns a list, as a backbone does."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        return [super().forward(x), x]


class Named(nn.Module):
    """Returns outputs by name, as transformers' networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(432, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.fc(x.flatten(1))}


def test_what_is_no_pair_is_refused(module: Hand) -> None:
    pair = module, hand_gluon()
    bare = g.HybridSequential()
    bare.add(g.Flatten(), g.Dense(5))
    for given, options, error, says in (
        (pair, {}, DataError, "a pair needs an array"),
        (pair, {"images": IMAGES[0]}, DataError, "got an array of shape"),
        (pair, {"images": IMAGES[:, :1]}, SpecError, "torch: Hand does not make one array of images"),
        (pair, {"images": IMAGES, "weights": {}}, WeightsError, "brings its own"),
        (pair, {"images": IMAGES, "trial": object()}, RecipeError, "accuracies"),
        ((module, 3), {"images": IMAGES}, SpecError, "a network is a torch.nn.Module .*, got int"),
        ((module, bare), {"images": IMAGES}, WeightsError, "1.weight is not initialised; call"),
        ((module, nn.Conv2d(3, 2, 3)), {"images": IMAGES}, SpecError, r"gives \(1, 2, 10, 10\); expected"),
        (
            (module, Several(3, 2, 3)),
            {"images": IMAGES},
            SpecError,
            r"Several gives 2 outputs; expected one, \(N, classes\)",
        ),
        (
            (module, Named()),
            {"images": IMAGES},
            SpecError,
            "Named: gives a dict; let a module around it return one tensor",
        ),
        ((torch.jit.ScriptModule(), module), {"images": IMAGES}, SpecError, "give the module it was made of"),
        ("resnet18", {"names": {}}, SpecError, "are for a pair of your own networks"),
    ):
        with pytest.raises(error, match=says):
            parity(given, **options)


def test_a_frozen_norm_s_scale_and_shift_are_weights() -> None:
    """torchvision's detectors hold them, and the running statistics, as buffers."""
    torch.manual_seed(0)
    frozen = Hand()
    frozen.norm = torchvision.ops.FrozenBatchNorm2d(6, eps=1e-4)
    for tensor in frozen.norm.state_dict().values():
        tensor.uniform_(0.5, 1.5)
    trained = Hand()
    trained.load_state_dict(frozen.state_dict(), strict=False)
    assert_parity((frozen, trained), names={"norm": "norm"}, images=IMAGES, level="quick")
    with torch.no_grad():
        trained.norm.weight[2] += 1e-3
    assert parity((frozen, trained), names={"norm": "norm"}, images=IMAGES, level="quick").failure.name == "weights"


def test_torchvision_and_the_gluon_zoo() -> None:
    torch.manual_seed(0)
    module, block = torchvision.models.resnet18(num_classes=10), mx.gluon.model_zoo.vision.resnet18_v1(classes=10)
    block.initialize()
    shown = photographs((64, 64))[:1]
    names = suggest_names(module, block, shown)
    assert names["features.5.0.downsample.1"] == "layer2.0.downsample.1"
    report = assert_parity((module, moved(module, block, names, shown)), names=names, images=shown, level="quick")
    assert len(report.rungs) == 5
    assert report.rungs[0].detail.startswith("42 rows; 11,181,642 parameters")


def test_torchvision_s_and_the_gluon_zoo_s_blocks_train_the_same(monkeypatch) -> None:
    """Few of them, and eight steps of two images in lock-step, where there would be twenty of eight."""
    monkeypatch.setattr(pairs, "LOCKSTEP", LOCKSTEP | {"steps": 8, "batch_size": 2})
    torch.manual_seed(0)
    zoo = mx.gluon.model_zoo.vision
    module = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 1, 1, 1])
    module.layer3, module.layer4, module.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 10)
    block = zoo.ResNetV1(zoo.BasicBlockV1, [2, 1], [64, 64, 128], classes=10)
    block.initialize()
    shown = photographs((64, 64))[:1]
    names = suggest_names(module, block, shown)
    report = assert_parity((module, moved(module, block, names, shown)), names=names, images=shown, level="standard")
    assert len(report.rungs) == 8


def test_an_activation_inside_a_gluon_layer_is_a_layer_of_its_own() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 5), nn.Sigmoid())
    block = g.HybridSequential()
    block.add(g.Conv2D(8, 3, in_channels=3, activation="relu"), g.Dense(5, in_units=8 * 100, activation="sigmoid"))
    block.initialize()
    for ours, theirs in ((block[0], module[0]), (block[1], module[3])):
        ours.weight.set_data(ndarray(theirs.weight.detach().numpy(), "float32", CPU))
        ours.bias.set_data(ndarray(theirs.bias.detach().numpy(), "float32", CPU))
    assert [type(inner).__name__ for inner in (block[0].act, block[1].act)] == ["Activation"] * 2
    names = {"1": "3", "0.act": "1", "1.act": "4"}
    report = assert_parity((module, block), names=names, images=IMAGES)
    assert {"0", "1", "3", "4"} <= {layer.name for layer in report.layers}
    assert all(layer.own is not None for layer in report.layers)
    assert block[0].act is not None
    module[1] = nn.Identity()
    report = parity((module, block), names=names, images=IMAGES)
    assert report.failure.where == "1"


def convolution(framework: str, **settings: Any) -> Any:
    """A network of one convolution and a mean."""
    if framework == "torch":
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, **settings), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
    block = mx.gluon.nn.HybridSequential()
    block.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3, **settings), mx.gluon.nn.GlobalAvgPool2D(), mx.gluon.nn.Flatten())
    block.initialize()
    return block


def with_weights_of(module: Any, block: Any) -> tuple[Any, Any]:
    get_backend("mxnet").load(block, get_backend("torch").dump(module))
    return module, block


def test_a_dilation_that_a_map_of_one_pixel_hides_is_found_on_the_first_rung() -> None:
    """All but the middle of the kernel lies on the padding, whatever the dilation."""
    pair = with_weights_of(convolution("torch", padding=2, dilation=2), convolution("mxnet", padding=1))
    failure = parity(pair, images=np.ones((1, 3, 1, 1), np.float32), level="quick").failure
    assert failure is not None
    assert (failure.name, failure.where) == ("shapes", "0")
    assert failure.detail == "padding height 2 in torch, 1 in mxnet"


def test_padding_is_compared_however_it_is_written() -> None:
    pair = with_weights_of(convolution("torch", padding="same"), convolution("mxnet", padding=1))
    assert_parity(pair, images=IMAGES, level="quick")


def test_images_of_one_grey_hide_nothing() -> None:
    """Kernels turned around give the same mean for a constant image."""
    module, block = convolution("torch"), convolution("mxnet")
    get_backend("mxnet").load(block, get_backend("torch").dump(module))
    conv = block[0]
    forward = conv.hybrid_forward

    def upside_down(F, x, **params):  # noqa: N803
        return forward(F, F.flip(x, axis=2), **params)

    conv.hybrid_forward = upside_down
    failure = parity((module, block), images=np.full((2, 3, 8, 8), 0.5, np.float32), level="quick").failure
    assert failure is not None
    assert (failure.name, failure.where) == ("forward float64", "0")


def test_a_partner_that_was_rounded_to_float16_is_said_to_be() -> None:
    module, block = convolution("torch"), convolution("mxnet")
    get_backend("mxnet").load(block, get_backend("torch").dump(module))
    block.cast("float16")
    report = parity((module, block), images=IMAGES, level="quick")
    assert report.holds
    assert re.search(r"mxnet's weights are rounded to float16, by up to [\d.e-]+\)$", report.verdict())
    module.half()
    assert "rounded" not in parity((module, block), images=IMAGES, level="quick").verdict()


@pytest.fixture
def exported(tmp_path) -> str:
    """A small Gluon network, exported; the path without its endings."""
    net = g.HybridSequential()
    net.add(g.Conv2D(6, 3, padding=1, in_channels=3), g.BatchNorm(in_channels=6, epsilon=1e-3), g.Activation("relu"))
    net.add(g.GlobalAvgPool2D(), g.Dense(5, in_units=6))
    net.initialize()
    rng = np.random.default_rng(3)
    for param in weights_of(net).values():
        param.set_data(ndarray(rng.uniform(0.5, 1.5, param.shape), "float32", CPU))
    net.hybridize()
    net(ndarray(IMAGES, "float32", CPU))
    net.export(str(tmp_path / "net"))
    return str(tmp_path / "net")


def imported(exported: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet's, on the type of the images
        return mx.gluon.SymbolBlock.imports(f"{exported}-symbol.json", ["data"], f"{exported}-0000.params")


@pytest.mark.parametrize("level", ["quick", "standard"])
def test_an_imported_network_is_compared_layer_by_layer(exported: str, level: str) -> None:
    module, block = load(f"{exported}-0000.params", "torch"), imported(exported)
    report = assert_parity((module, block), images=IMAGES, level=level)
    assert report.network == "Sequential and SymbolBlock"
    assert report.weights == "torch's own; mxnet's layers are read from its graph, whose output is theirs"
    assert report.rungs[0].detail.startswith("7 rows; 215 parameters")
    if level == "standard":
        assert [layer.name for layer in report.layers] == ["conv1", "norm", "act", "global_pool", "flatten", "fc"]
    assert suggest_names(module, block, IMAGES) == {}


def test_a_difference_in_an_imported_network_is_found_at_its_layer(exported: str) -> None:
    module, block = load(f"{exported}-0000.params", "torch"), imported(exported)
    module.norm.eps = 1e-5
    failure = parity((module, block), images=IMAGES, level="quick").failure
    assert failure is not None
    assert (failure.number, failure.where) == (1, "norm")
    module = load(f"{exported}-0000.params", "torch")
    with torch.no_grad():
        module.fc.bias[0] += 1e-3
    failure = parity((module, block), images=IMAGES, level="quick").failure
    assert failure is not None
    assert (failure.number, failure.where) == (2, "fc.bias")


def test_an_imported_network_that_magnifies_rounding_errors_is_compared(tmp_path) -> None:
    """It divides images, and its plan multiplies them. The last sum cancels all but a ten-millionth of its terms."""
    symbol = graphs.head(graphs.conv(mx.sym.var("data") / 3.0, "conv0", 4))
    tensors = graphs.tensors_of(symbol, IMAGES[:1].shape)
    tensors["fc1_bias"] -= (graphs.run(symbol, tensors, IMAGES[:1])[0] - 1e-7).astype(np.float32)
    block = imported(str(graphs.write(tmp_path, symbol, tensors)).removesuffix("-0000.params"))
    assert suggest_names(block, block, IMAGES) == {}


def test_an_imported_network_that_no_plan_has_is_refused_by_its_node(module: Hand) -> None:
    x = mx.sym.var("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        block = mx.gluon.SymbolBlock(mx.sym.sin(x, name="wave"), x)
    with pytest.raises(SpecError, match=r"mxnet: SymbolBlock-symbol.json: node 'wave' \(sin\): no plan of a residual"):
        parity((module, block), images=IMAGES)


class Scaled(nn.Module):
    """Has a parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.scale * self.conv(x).relu().mean((2, 3)))


def test_a_parameter_without_axes_is_compared() -> None:
    torch.manual_seed(0)
    module = Scaled()
    report = assert_parity((module, copy.deepcopy(module)), images=IMAGES)
    assert "not compared" not in report.verdict()


MEAN, STD = np.float32([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1), np.float32([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1)


class Normalised(nn.Module):
    """Normalises its images by buffers, which no step trains."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(MEAN.copy()))
        self.register_buffer("std", torch.from_numpy(STD.copy()))
        self.register_buffer("order", torch.tensor([2, 1, 0]))
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv((x[:, self.order] - self.mean) / self.std).relu().mean((2, 3)))


class NormalisedBlock(mx.gluon.HybridBlock):
    """The same, by constants."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.mean = self.params.get_constant("mean", ndarray(MEAN, "float32", CPU))
            self.std = self.params.get_constant("std", ndarray(STD, "float32", CPU))
            self.conv, self.head = g.Conv2D(4, 3, in_channels=3), g.Dense(3, in_units=4)

    def hybrid_forward(self, F, x, mean, std):  # noqa: N803
        x = F.broadcast_div(F.broadcast_sub(F.flip(x, axis=1), mean), std)
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture
def normalised() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    module, block = Normalised(), NormalisedBlock()
    block.initialize()
    mx.gluon.Trainer(block.collect_params(), "sgd")
    return with_weights_of(module, block)


def test_constants_are_no_weights(normalised) -> None:
    module, block = normalised
    report = assert_parity((module.double(), block), images=IMAGES)
    assert report.rungs[0].detail.startswith("3 rows; 127 parameters")
    assert report.rungs[1].detail.startswith("4 arrays")


def test_a_constant_that_differs_is_found(normalised) -> None:
    module, block = normalised
    module.std[0, 0] *= 1 + 1e-6
    failure = parity((module, block), images=IMAGES, level="quick").failure
    assert failure is not None
    assert (failure.name, failure.where) == ("forward float64", "conv")


class Averaging(nn.Module):
    """Keeps an average under a name that is nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("average", torch.zeros(4))
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu().mean((2, 3))
        if not self.training:
            return self.head(x - self.average)
        self.average.lerp_(x.detach().mean(0), self.momentum)
        return self.head(x - x.mean(0))


def test_an_average_that_is_not_compared_is_told() -> None:
    module = Averaging()
    other = copy.deepcopy(module)
    other.momentum = 0.5
    told = "what training keeps besides weights and running statistics is not compared"
    assert told in assert_parity((module, other), images=IMAGES).verdict()


class Branches(nn.Module):
    """Two branches, of which either may run first."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.a, self.b = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = {name: self.get_submodule(name)(x) for name in self.order}
        return self.head((maps["a"] - maps["b"]).mean((2, 3)))


def test_branches_may_run_in_any_order() -> None:
    first, second = Branches("ab"), Branches("ba")
    second.load_state_dict(first.state_dict())
    assert_parity((first, second), images=IMAGES)
    second.b[1] = nn.Softplus()
    failure = parity((first, second), images=IMAGES, level="quick").failure
    assert failure is not None
    assert (failure.name, failure.where) == ("forward float64", "b.1")
