import gc
import subprocess
import sys
import weakref

import msgspec
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.runs import RECIPE, TINY
from resnet_xf import ResNetSpec, build, draw_weights, get_backend, plan
from resnet_xf.architecture.nodes import Activation
from resnet_xf.architecture.plan import plan_block
from resnet_xf.backend.observe import trace_network
from resnet_xf.errors import BackendError, TrainingError
from resnet_xf.testing import (
    BackboneContract,
    BackendContract,
    GradientsAloneContract,
    LayersAloneContract,
    OptimizesContract,
    TrainsContract,
    images,
)
from resnet_xf.training.checkpoint import Header
from resnet_xf.training.evaluation import task_of
from resnet_xf.training.recipe import targets
from resnet_xf_torch.learner import TorchLearner, find_device, refuse_uncompiled


class TestTorch(
    BackendContract, BackboneContract, LayersAloneContract, GradientsAloneContract, TrainsContract, OptimizesContract
):
    backend = get_backend("torch")

    def maps(self, backbone, shown):
        with torch.no_grad():
            return [one.numpy() for one in backbone.eval()(torch.from_numpy(shown))]


@pytest.fixture
def network(odd_spec: ResNetSpec) -> torch.nn.Module:
    return build(odd_spec, "torch").eval()


class Operations(TorchDispatchMode):
    """Writes down every operation with its shapes and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        self.told.append((func, *((tuple(tensor.shape), tensor.stride()) for tensor in tensors)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_pytorch_does_for_our_network_what_it_does_for_torchvisions(name: str, training: bool) -> None:
    """The same operations in the same order, so that neither can be faster."""
    import torchvision

    told = []
    for make in (lambda: get_backend("torch").build(plan(name).root), lambda: torchvision.models.get_model(name)):
        with torch.device("meta"):  # to draw first values takes longer than to run the network
            network = make()
        network.to_empty(device="cpu")
        with Operations() as operations, torch.set_grad_enabled(training):
            output = network.train(training)(torch.ones(2, 3, 64, 64))
            if training:
                output.sum().backward()
        told.append(operations.told)
    assert len(told[0]) > 60
    assert told[0] == told[1]


def test_every_zoo_network_is_made_of_pytorchs_own_layers() -> None:
    for name in ("resnet18", "resnet50_v1", "seresnet50", "resnet50d", "cifar_resnet20_v2"):
        with torch.device("meta"):
            network = get_backend("torch").build(plan(name).root)
        leaves = {type(m) for n, m in network.named_modules() if not list(m.children()) and not n.endswith("add")}
        assert all(leaf.__module__.startswith("torch.nn.modules") for leaf in leaves)


def test_what_a_layer_passes_over_has_a_gradient_of_zero() -> None:
    class First(torch.nn.Module):
        def forward(self, first, second):
            return 2 * first

    ones = np.ones((1, 3, 2, 2), np.float32)
    holder = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), First())
    found = get_backend("torch").differentiate(holder, "1", [ones, ones], ones)
    assert (found["input0"] == 2).all()
    assert (found["input1"] == 0).all()


def test_modules_are_left_in_the_mode_they_were_in(odd_spec: ResNetSpec) -> None:
    network = build(odd_spec, "torch")
    assert network.training
    frozen = network.get_submodule("layer1.0.bn1").eval()
    get_backend("torch").forward(network, images(1, 3, 67, 61))
    assert network.training
    assert not frozen.training
    assert network.get_submodule("layer1.0.bn2").training


def test_hooks_are_taken_off(network: torch.nn.Module) -> None:
    trace_network(get_backend("torch"), network, images(1, 3, 67, 61))
    assert not any(module._forward_hooks for module in network.modules())


def test_state_dict_round_trip(network: torch.nn.Module, odd_spec: ResNetSpec, tmp_path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    other = build(odd_spec, "torch", seed=1).eval()
    shown = torch.from_numpy(images(2, 3, 67, 61))
    with torch.inference_mode():
        assert not torch.equal(other(shown), network(shown))
        other.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
        assert torch.equal(other(shown), network(shown))


def test_survives_export(network: torch.nn.Module) -> None:
    shown = torch.from_numpy(images(2, 3, 67, 61))
    exported = torch.export.export(network, (shown,)).module()
    with torch.no_grad():
        assert torch.equal(exported(shown), network(shown))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_survives_compile(network: torch.nn.Module) -> None:
    """Traced as one graph; ``test_optimized`` also lets inductor make kernels of a graph, which takes a minute."""
    shown = torch.from_numpy(images(2, 3, 67, 61))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(shown), network(shown), rtol=1e-4, atol=1e-5)


def test_one_block_leaves_its_input_as_it_was() -> None:
    for node in (plan_block("resnet18", in_channels=3, channels=3), plan("resnet18").root):
        shown = torch.from_numpy(images(1, 3, 64, 64))
        before = shown.clone()
        with torch.no_grad():
            get_backend("torch").build(node).eval()(shown)
        assert torch.equal(shown, before)
    relu = get_backend("torch").build(Activation("relu"))
    shown = torch.from_numpy(images(1, 3, 4, 4))
    assert not torch.equal(relu(shown), shown)


def test_trains(odd_spec: ResNetSpec) -> None:
    network = build(odd_spec, "torch")
    loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(images(4, 3, 67, 61))), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for n, p in network.named_parameters() if "fc" in n)
    assert np.isfinite(loss.item())


def test_a_scaled_loss_takes_the_same_steps_and_its_scale_goes_on() -> None:
    """What float16 does on a GPU, with float32 on the CPU."""
    shown = images(8, 1, 12, 12)
    wanted = targets(list(range(8)), 10, 0.0, 8)
    recipe = msgspec.structs.replace(RECIPE, precision="float32")
    learners = [get_backend("torch").learner(task_of(plan(TINY), recipe, "cpu")) for _ in range(3)]
    plain, scaled, again = learners
    for learner in learners:
        learner.load(draw_weights(TINY), {})
    for learner in (scaled, again):
        learner._scaler = torch.amp.GradScaler("cpu", growth_interval=2)
    assert plain.loss_scaling() == {}
    losses = [[learner.step(shown, wanted, 0.05)()[0] for _ in range(3)] for learner in (plain, scaled)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert scaled.loss_scaling()["scale"] == 2 * 65536
    again.load(*scaled.dump())
    header = Header(recipe=recipe, backend="torch", dataset="digits", train_digest="", train_images=1, classes=(), mean=(0.0,), std=(1.0,), loss_scaling=scaled.loss_scaling())  # fmt: skip
    again.load_loss_scaling(Header.from_json(header.to_json()).loss_scaling)
    assert again.loss_scaling() == scaled.loss_scaling()
    assert again.step(shown, wanted, 0.05)()[0] == scaled.step(shown, wanted, 0.05)()[0]
    assert again.loss_scaling() == scaled.loss_scaling()


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99", "auto:1"])
def test_a_device_that_is_not_there_is_refused_by_name(device: str) -> None:
    with pytest.raises(BackendError, match=f"no device is called '{device}'|there is no cuda:99"):
        get_backend("torch").learner(task_of(plan(TINY), RECIPE, device))


def test_a_gpu_that_pytorch_cannot_use_is_left_alone(monkeypatch) -> None:
    """As with a driver that is too old for this PyTorch: it still counts the GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_backend("torch").devices() == ["cpu"]
    assert find_device("auto").type == "cpu"

    def set_device(index: int) -> None:
        raise RuntimeError("no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with pytest.raises(BackendError, match="^torch cannot use cuda:0: no kernel image .* on the device; choose cpu$"):
        find_device("cuda")


def test_what_pytorch_would_not_compile_is_not_called_compiled(monkeypatch) -> None:
    place = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (7, 5))
    with pytest.raises(BackendError, match="compiles no bfloat16 for this GPU; choose float16, or preset tuned"):
        refuse_uncompiled(place, "bfloat16", "best")
    for precision, preset in (("bfloat16", "tuned"), ("float16", "best")):
        refuse_uncompiled(place, precision, preset)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (8, 0))
    refuse_uncompiled(place, "bfloat16", "best")


def test_pytorch_s_newer_settings_stay_as_a_program_has_set_them(network: torch.nn.Module) -> None:
    cudnn = torch.backends.cudnn
    before, cudnn.conv.fp32_precision = cudnn.allow_tf32, "ieee"
    try:
        get_backend("torch").forward(network, images(1, 3, 67, 61))
        assert cudnn.conv.fp32_precision == "ieee"
    finally:
        cudnn.allow_tf32 = before


def a_learner() -> TorchLearner:
    return get_backend("torch").learner(task_of(plan(TINY), RECIPE, "cpu"))


def test_a_closed_learner_is_freed_at_once() -> None:
    """A GPU's memory is short, and Python looks for what refers to itself late."""
    learner = a_learner()
    learner.step(np.zeros((4, 1, 12, 12), np.float32), targets(np.arange(4), 10, 0.0, 4), 0.1)()
    learner.close()
    gc.collect()
    gone = weakref.ref(learner)
    gc.disable()
    try:
        del learner
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_s_mode_does_not_turn_gradients_off(mode) -> None:
    shown, labels = np.ones((4, 1, 12, 12), np.float32), targets(np.arange(4), 10, 0.0, 4)
    backend = get_backend("torch")
    with mode():
        learner = a_learner()
        weights = draw_weights(TINY)
        learner.load(weights, {name: np.zeros_like(weights[name]) for name, _ in learner._network.named_parameters()})
        learner.step(learner.put(shown), labels, 0.1)()
        network = backend.copy(backend.move(build(TINY, "torch"), "cpu"), "float64")
        backend.load(network, weights)
        found = backend.differentiate(network, "conv1", [shown], backend.apply(network, "conv1", [shown]))
    learner.step(shown, labels, 0.1)()
    assert all(velocity.any() for name, velocity in learner.dump()[1].items() if name.endswith("weight"))
    assert found["weight"].any()
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())


def test_an_error_that_a_gpu_tells_late_is_told_in_a_line(monkeypatch) -> None:
    def late() -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error\nCompile with ...")

    learner = a_learner()
    monkeypatch.setattr(learner, "_fetch", lambda *tensors: late)
    outcome = learner.step(np.zeros((4, 1, 12, 12), np.float32), targets(np.arange(4), 10, 0.0, 4), 0.1)
    with pytest.raises(TrainingError, match="^torch failed on cpu: CUDA error: uncorrectable ECC error$"):
        outcome()


def test_narrow_shortcuts_train_in_channels_last_on_two_threads() -> None:
    """oneDNN's own kernel for them writes beyond its memory, which ends the process or spoils it."""
    code = """
import numpy as np, torch
from resnet_xf_torch.builder import without_onednn_s_overrun
torch.set_num_threads(2)
conv = torch.nn.Conv2d(8, 16, 1, 2)
network = torch.nn.Sequential(conv).to(memory_format=torch.channels_last)
names = list(network.state_dict())
without_onednn_s_overrun(network)
assert list(network.state_dict()) == names
x = torch.rand(3, 8, 13, 12).to(memory_format=torch.channels_last)
for _ in range(50):
    network(x).sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
with torch.backends.mkldnn.flags(enabled=False):
    torch.testing.assert_close(network(x), conv(x))
    conv(x).sum().backward()
torch.testing.assert_close(gradient, conv.weight.grad)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
