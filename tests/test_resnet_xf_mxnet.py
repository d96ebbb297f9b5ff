"""Needs MXNet alone, so that it also runs where PyTorch is not installed."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from resnet_xf import ResNetSpec, build, draw_weights, get_backend, plan
from resnet_xf.architecture.nodes import Pad, walk
from resnet_xf.backend.observe import trace_network
from resnet_xf.testing import (
    BackboneContract,
    BackendContract,
    GradientsAloneContract,
    LayersAloneContract,
    OptimizesContract,
    TrainsContract,
    images,
)
from resnet_xf_mxnet.numpy_compat import mx


class TestMxnet(
    BackendContract, BackboneContract, LayersAloneContract, GradientsAloneContract, TrainsContract, OptimizesContract
):
    backend = get_backend("mxnet")

    def maps(self, backbone, shown):
        plain = [one.asnumpy() for one in backbone(array(shown))]
        backbone.hybridize(static_alloc=True, static_shape=True)
        hybrid = [one.asnumpy() for one in backbone(array(shown))]
        assert all(np.array_equal(a, b) for a, b in zip(plain, hybrid, strict=True))
        return plain


def array(values: np.ndarray) -> object:
    made = mx.nd.empty(values.shape, dtype=values.dtype)
    made[:] = values
    return made


@pytest.fixture
def network(odd_spec: ResNetSpec) -> object:
    made = build(odd_spec, "mxnet")
    get_backend("mxnet").load(made, draw_weights(odd_spec, scheme="probe"))
    return made


def test_parameters_are_named_by_their_place(network) -> None:
    names = list(network._collect_params_with_prefix())
    assert names[:5] == ["conv1.weight", "bn1.gamma", "bn1.beta", "bn1.running_mean", "bn1.running_var"]
    assert "layer2.0.downsample.0.weight" in names
    assert "layer2_0_downsample_0_weight" in network.collect_params()


def test_a_printed_network_shows_all_its_layers(odd_spec: ResNetSpec) -> None:
    """As PyTorch prints: each layer on a line, in the block that holds it."""
    lines = str(build(odd_spec, "mxnet")).splitlines()
    named = [line.partition(":")[0].strip(" ()") for line in lines if line.lstrip().startswith("(")]
    assert named == [name.rpartition(".")[2] for name, _ in walk(plan(odd_spec).root) if name]
    assert "(conv1): Conv2D(3 -> 11" in lines[1]
    assert "    (0): ResidualBlock(" in lines
    assert sum(line.strip() == "(add): Sum()" for line in lines) == 6
    assert str(get_backend("mxnet").build(Pad(1))) == "ZeroPad(0, 1, 0, 1)"


def test_hybridized_static_gives_equal_outputs(network) -> None:
    backend, shown = get_backend("mxnet"), images(2, 3, 67, 61)
    plain = backend.forward(network, shown)
    network.hybridize(static_alloc=True, static_shape=True)
    for _ in range(2):
        assert np.array_equal(backend.forward(network, shown), plain)


def test_a_hybridized_network_can_be_traced_and_stays_hybridized(network) -> None:
    backend, shown = get_backend("mxnet"), images(1, 3, 67, 61)
    plain = trace_network(backend, network, shown)
    network.hybridize()
    backend.forward(network, shown)
    assert trace_network(backend, network, shown) == plain
    assert network._active
    assert not network._forward_hooks


@pytest.mark.filterwarnings("ignore")  # MXNet's own
def test_exports_and_imports_with_equal_outputs(network, tmp_path) -> None:
    backend, shown = get_backend("mxnet"), images(2, 3, 67, 61)
    network.hybridize()
    wanted = backend.forward(network, shown)
    network.export(str(tmp_path / "net"))
    symbol, params = tmp_path / "net-symbol.json", tmp_path / "net-0000.params"
    imported = mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(params))
    assert np.array_equal(imported(array(shown)).asnumpy(), wanted)


def test_saves_and_loads_parameters(network, odd_spec: ResNetSpec, tmp_path) -> None:
    backend, shown = get_backend("mxnet"), images(2, 3, 67, 61)
    network.save_parameters(str(tmp_path / "net.params"))
    other = backend.build(plan(odd_spec).root)
    other.load_parameters(str(tmp_path / "net.params"))
    assert np.array_equal(backend.forward(other, shown), backend.forward(network, shown))


def test_trains(odd_spec: ResNetSpec) -> None:
    network = build(odd_spec, "mxnet")
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    with mx.autograd.record():
        value = loss(network(array(images(4, 3, 67, 61))), array(np.arange(4, dtype=np.float32)))
    value.backward()
    assert np.isfinite(value.asnumpy()).all()
    assert all(np.abs(p.grad().asnumpy()).max() > 0 for n, p in network.collect_params().items() if "fc" in n)


def test_a_norm_without_scale_and_shift_holds_statistics_alone() -> None:
    import msgspec

    from resnet_xf import get_spec

    spec = get_spec("d2l_resnet18")
    spec = msgspec.structs.replace(spec, stem=msgspec.structs.replace(spec.stem, input_norm=True))
    dumped = get_backend("mxnet").dump(build(spec, "mxnet"))
    assert [name for name in dumped if name.startswith("input_norm")] == [
        "input_norm.running_mean",
        "input_norm.running_var",
    ]


STEP = """import ctypes
import numpy as np
from resnet_xf import draw_weights, get_backend, get_recipe, plan
from resnet_xf.training.evaluation import task_of
from resnet_xf.training.recipe import targets
planned = plan("cifar_resnet20")
for preset in ("tuned", "best"):
    learner = get_backend("mxnet").learner(task_of(planned, get_recipe("cifar"), "cpu", preset=preset))
    learner.load(draw_weights(planned), {})
    learner.step(np.ones((4, 3, 32, 32), np.float32), targets(np.arange(4), 10, 0.0, 4), 0.1)()
    learner.dump()  # waits for the backward pass
    ctypes.CDLL(None).fflush(None)  # oneDNN's lines
    print("end of", preset, flush=True)
"""


def test_the_fastest_training_has_no_norms_without_a_kernel_of_their_own() -> None:
    """A global pool's gradient makes oneDNN fall back to its reference in each block of the last stage."""
    environment = os.environ | {"MKLDNN_VERBOSE": "1"}
    command = [sys.executable, "-c", STEP]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    tuned, said = said.split("end of tuned\n")
    best, _ = said.split("end of best\n")
    texts = {"tuned": tuned, "best": best}
    norms = {preset: re.findall(r"batch_normalization,(bnorm_[a-z]+)", text) for preset, text in texts.items()}
    assert len(norms["tuned"]) == len(norms["best"]) == 2 * 21
    assert "bnorm_ref" not in norms["best"]
