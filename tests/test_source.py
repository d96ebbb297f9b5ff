"""Networks as Python files: the names and numbers of the builders' own, without resnet_xf."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from helpers.narrow import shortened
from helpers.strategies import fits, specs
from resnet_xf import ResNetSpec, Stage, draw_weights, get_backend, get_spec, list_models, plan, save_weights, source
from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Conv, Node, Norm, Residual, Sequential
from resnet_xf.architecture.plan import Plan, explicit_spec
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.errors import BackendError
from resnet_xf_mxnet.numpy_compat import mx

BACKENDS = ("torch", "mxnet")


def made(text: str) -> Any:
    """The network of a file's text."""
    scope: dict[str, Any] = {"__name__": "model"}
    exec(text, scope)
    return scope["ResNet"]()


def float64_outputs(planned: Plan, name: str) -> tuple[Any, Any]:
    """The outputs of the file's network, and of the builder's, with the same weights and images."""
    backend = get_backend(name)
    network = made(source(planned, name))
    if name == "mxnet":
        network.initialize(mx.init.Zero())
        network.cast("float64")
    else:
        network.double()
    built = backend.build(planned.root, "float64")
    weights = draw_weights(planned, 1, "probe", "float64")
    images = np.random.default_rng(0).standard_normal((2, planned.spec.in_channels, *planned.spec.image_size))
    for one in (network, built):
        backend.load(one, weights)
    assert [*backend.dump(network)] == [*backend.dump(built)]
    ours, theirs = backend.settings(network), backend.settings(built)
    assert ours.keys() == theirs.keys()
    for layer, numbers in theirs.items():
        assert ours[layer] == pytest.approx(numbers, rel=1e-12), layer
    return backend.forward(network, images), backend.forward(built, images)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(specs())
def test_any_network_s_file_computes_what_the_builder_s_network_computes(spec: ResNetSpec) -> None:
    assume(fits(spec))
    for backend in BACKENDS:
        ours, built = float64_outputs(plan(spec), backend)
        np.testing.assert_array_equal(ours, built)


def depth(name: str) -> int:
    return sum(stage.depth for stage in get_spec(name).stages)


FAMILY = {shortened(name): name for name in sorted(list_models(), key=depth, reverse=True)}
"""The different networks of the zoo, with few channels and blocks, and the shallowest one that each was made from."""

SMALL = (Stage(depth=2, channels=16), Stage(depth=2, channels=32, stride=2), Stage(depth=1, channels=64, stride=2))
PARTS: dict[str, dict[str, Any]] = {
    "split attention, whose pooling has a stride": {"block": "bottleneck", "radix": 2, "stride_on": "avg_pool", "shortcut": "avg_conv"},
    "arcface's unit": {"block": "ir", "project_first": True},
    "a shortcut from the preactivation": {"preactivation": True, "shortcut_from": "preactivation"},
    "a shortcut from the input": {"preactivation": True, "shortcut_from": "input"},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_that_only_some_blocks_have(part: str, backend: str) -> None:
    spec = ResNetSpec(name="parts", num_classes=5, image_size=(33, 33), stages=SMALL, **PARTS[part])
    np.testing.assert_array_equal(*float64_outputs(plan(spec), backend))


def test_dilated_stages_and_pruned_widths_are_numbers_of_the_calls() -> None:
    spec = ResNetSpec(
        name="widths",
        block="bottleneck",
        image_size=(33, 33),
        shortcut="avg_conv",
        stages=(
            Stage(depth=2, channels=32, mid_channels=((5, 7), (6, 9))),
            Stage(depth=2, channels=64, stride=2, mid_channels=((4, 4), (3, 8))),
            Stage(depth=2, channels=64, dilation=2),
        ),
    )
    for backend in BACKENDS:
        np.testing.assert_array_equal(*float64_outputs(plan(spec), backend))
    assert source(spec, "torch").count("class Residual") <= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_that_differ_in_momentum_keep_it(backend: str) -> None:
    momenta = iter((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.15, 0.25, 0.35, 0.45))

    def changed(children: Children, **_: Any) -> Children:
        return tuple(
            (name, replace(node, momentum=next(momenta)) if isinstance(node, Norm) else node.changed(changed))
            for name, node in children
        )

    small = plan(ResNetSpec(name="small", num_classes=5, image_size=(33, 33), stages=SMALL[:2]))
    spec = explicit_spec("momenta", Sequential(changed(small.root.children)), (33, 33))
    np.testing.assert_array_equal(*float64_outputs(plan(spec), backend))


def residual(*body: tuple[str, Node], shortcut: Node | None = None) -> Residual:
    return Residual((), body, shortcut, "input", (("act1", nodes.Activation("relu")),))


def skip(channels: int, shortcut: Node | None = None) -> Residual:
    """A block that skips over two blocks."""
    conv, norm = Conv(channels, channels, 3, 1, 1), Norm(channels, 1e-5, 0.1)
    inner = residual(("conv1", conv), ("bn1", norm), shortcut=shortcut)
    return residual(("block", inner), ("block_2", inner))


def pooled(operation: Any) -> Residual:
    return residual(("pool", nodes.Pool(operation, 3, 1, 1)), ("conv1", Conv(4, 4, 3, 1, 1)))


UNLIKE: dict[str, tuple[Node, ...]] = {
    "blocks around blocks of other widths": (skip(4), Conv(4, 6, 1), skip(6), Conv(6, 4, 1)),
    "blocks around blocks of which one has a shortcut": (skip(4), skip(4, Conv(4, 4, 1))),
    "poolings of two kinds": (pooled("max"), pooled("avg")),
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_that_no_class_has_in_common(name: str, backend: str) -> None:
    end = ("global_pool", nodes.GlobalPool()), ("flatten", nodes.Flatten()), ("fc", nodes.Linear(4, 5))
    blocks = Sequential(tuple((str(number), node) for number, node in enumerate(UNLIKE[name])))
    root = Sequential((("conv1", Conv(3, 4, 3, 1, 1)), ("layer1", blocks), *end))
    np.testing.assert_array_equal(*float64_outputs(plan(explicit_spec("unlike", root, (9, 9))), backend))


@pytest.fixture(scope="session")
def whole_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    for name in list_models():
        for backend in BACKENDS:
            (folder / f"{name}_{backend}.py").write_text(source(name, backend))
    return folder


def test_files_of_the_whole_family_have_the_names_and_shapes_of_the_plan(whole_family: Path) -> None:
    for name in {*FAMILY.values(), "resnet152"}:  # deeper ones have the same text but for the number of blocks
        with torch.device("meta"):
            network = made((whole_family / f"{name}_torch.py").read_text())
        tensors = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        counted = {key: shape for key, shape in tensors.items() if not key.endswith("num_batches_tracked")}
        assert counted == all_weight_shapes(name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", FAMILY, ids=FAMILY.values())
def test_files_of_the_whole_family_compute_what_the_builders_networks_compute(spec: ResNetSpec, backend: str) -> None:
    size = spec.image_size if spec.head == "embedding" else (33, 33)
    ours, built = float64_outputs(plan(msgspec.structs.replace(spec, image_size=size)), backend)
    rounding = 1e-7 if spec.activation == "prelu" and backend == "torch" else 0  # the builder's PReLU rounds to float32
    np.testing.assert_allclose(ours, built, rtol=0, atol=rounding * abs(built).max())


def test_files_of_the_whole_family_are_clean_and_short(whole_family: Path) -> None:
    for words in (("check",), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--isolated", str(whole_family)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    lengths = {path.name: len(path.read_text().splitlines()) for path in whole_family.iterdir()}
    assert max(lengths.values()) < 160
    assert lengths["resnet152_torch.py"] == lengths["resnet50_torch.py"]
    assert not [path for path in whole_family.iterdir() if "import resnet_xf" in path.read_text()]


def test_the_book_s_network_reads_like_its_notebook() -> None:
    text = source("d2l_resnet18", "torch")
    assert len(text.splitlines()) < 70
    assert "class Residual(nn.Module):\n" in text
    assert "        self.layer2 = nn.Sequential(Residual(64, 128, stride=2), Residual(128, 128))\n" in text
    assert "        return self.act2(y + shortcut)\n" in text


def test_a_checkpoint_s_network(tmp_path: Path, command: Any) -> None:
    spec = get_spec("cifar_resnet20")
    weights = draw_weights(spec, 3)
    save_weights(tmp_path / "weights.safetensors", weights, spec)
    code, out, _ = command("source", str(tmp_path / "weights.safetensors"), "--backend", "torch")
    assert code == 0
    network = made(out)
    missing = network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)


def test_a_file_is_written_whole(tmp_path: Path, command: Any) -> None:
    out = tmp_path / "model.py"
    assert command("source", "resnet18", "--backend", "mxnet", "--out", str(out))[0] == 0
    assert out.read_text() == source("resnet18", "mxnet")
    assert [*tmp_path.iterdir()] == [out]
    code, _, complaint = command("source", "resnet18", "--out", str(tmp_path / "no" / "model.py"))
    assert code == 2
    assert "there is no folder" in complaint


def test_a_backend_without_a_dialect_is_told() -> None:
    import numpy_backend

    with pytest.raises(BackendError, match="numpy cannot write source code"):
        source("resnet18", numpy_backend.BACKEND)
