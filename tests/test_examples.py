"""The NumPy backend in ``examples/``: what a backend with the required members alone can do, and what it is told it cannot."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from numpy_backend import BACKEND

from helpers.strategies import fits, specs
from resnet_xf import ResNetSpec, build, draw_weights, get_backend, list_backends, optimize, parity, plan
from resnet_xf.architecture import nodes
from resnet_xf.backend import registry
from resnet_xf.backend.contract import CAPABILITIES, LayersAlone, Trains, cannot, require
from resnet_xf.errors import BackendError, SpecError

FOLDER = Path(__file__).parent.parent / "examples" / "numpy_backend"


@pytest.fixture
def installed(monkeypatch) -> None:
    """As pip would install it, in this process."""
    point = EntryPoint("numpy", "numpy_backend:BACKEND", registry.GROUP)
    monkeypatch.setattr(registry, "_third_party", lambda: {"numpy": point})


def test_it_is_short_and_the_guide_shows_all_of_it() -> None:
    code = (FOLDER / "numpy_backend.py").read_text()
    assert len(code.splitlines()) < 120
    assert f"```python\n{code}```" in (FOLDER.parent.parent / "docs" / "backends.md").read_text()


@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet20"])
def test_it_holds_five_rungs(name: str) -> None:
    report = parity(name, ("torch", BACKEND), level="quick", image_size=(32, 32))
    assert [rung.status for rung in report.rungs] == ["pass"] * 5, report.verdict()


@settings(max_examples=40)
@given(specs().filter(fits))
def test_it_computes_what_pytorch_computes(spec: ResNetSpec) -> None:
    compare(plan(spec).root, (2, spec.in_channels, *spec.image_size))


CONV = nodes.Conv(3, 12, 1)  # PyTorch computes in the dtype of its weights: in float32 if there are none
VECTORS = nodes.Flatten(), nodes.Norm(12 * 10 * 9, 1e-3, 0.1, axes=2)
LAYERS: dict[str, tuple[nodes.Node, ...]] = {
    "PReLU": (CONV, nodes.PReLU(12)),
    "PReLU of one slope in float32": (CONV, nodes.PReLU(1, float32=True)),
    "leaky ReLU": (CONV, nodes.LeakyReLU(0.1)),
    "leaky ReLU in float32": (CONV, nodes.LeakyReLU(0.1, float32=True)),
    "tanh": (CONV, nodes.Activation("tanh")),
    "softmax": (CONV, nodes.Activation("softmax")),
    "clip": (CONV, nodes.Clip(-0.5, 0.5)),
    "scale": (nodes.Scale((0.1, 0.2, 0.3), (2.0,)), CONV),
    "scale of nothing": (nodes.Scale(), CONV),
    "group norm": (CONV, nodes.GroupNorm(12, 3, 1e-3)),
    "dropout": (CONV, nodes.Dropout(0.5)),
    "pad": (CONV, nodes.Pad(2)),
    "mean that counts padding": (CONV, nodes.Pool("avg", 3, 2, 1, counts_padding=True)),
    "mean that counts padding, rounded up": (CONV, nodes.Pool("avg", 3, 2, 1, ceil=True, counts_padding=True)),
    "mean rounded up": (CONV, nodes.Pool("avg", 3, 2, 1, ceil=True)),
    "maximum rounded up": (CONV, nodes.Pool("max", 3, 2, 1, ceil=True)),
    "radix sum": (CONV, nodes.RadixSum(2)),
    "radix softmax": (CONV, nodes.GlobalPool(), nodes.RadixSoftmax(2, cardinality=2)),
    "norm of vectors": (CONV, *VECTORS),
    "softmax of vectors": (CONV, *VECTORS, nodes.Activation("softmax")),
    "norm without scale": (CONV, nodes.Norm(12, 1e-3, 0.1, scale=False)),
    "norm without shift": (CONV, nodes.Norm(12, 1e-3, 0.1, shift=False)),
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_it_has_a_case_for_layers_that_no_spec_has(layers: tuple[nodes.Node, ...]) -> None:
    compare(nodes.Sequential(tuple((str(number), node) for number, node in enumerate(layers))), (2, 3, 10, 9))


def compare(node: nodes.Node, shape: tuple[int, ...]) -> None:
    """Hold both networks of a node against each other, in float64."""
    images, weights = (
        np.random.default_rng(0).standard_normal(shape),
        draw_weights(node, scheme="probe", dtype="float64"),
    )
    outputs = []
    for backend in (get_backend("torch"), BACKEND):
        outputs.append(backend.forward(build(node, backend, weights=weights, dtype="float64"), images))
    np.testing.assert_allclose(*outputs, rtol=1e-9, atol=1e-9)


def test_rungs_that_it_cannot_climb_are_skipped_with_the_reason() -> None:
    report = parity("cifar_resnet20", ("torch", BACKEND))
    assert [rung.status for rung in report.rungs] == ["pass"] * 5 + ["skip"] * 3
    assert [rung.detail for rung in report.rungs[5:]] == ["numpy cannot run layers alone"] + ["numpy cannot train"] * 2


def test_what_it_lacks_is_told_in_one_line(installed: None, tmp_path) -> None:
    assert list_backends()[-1] == "numpy"
    assert all(cannot(BACKEND, capability) for capability in CAPABILITIES)
    assert not any(cannot(get_backend("torch"), capability) for capability in ("train", "optimize", "run layers alone"))
    with pytest.raises(BackendError, match="^numpy cannot train; choose another backend, such as torch$"):
        require(BACKEND, Trains)
    with pytest.raises(BackendError, match="^numpy cannot optimize; choose another backend, such as torch$"):
        optimize("cifar_resnet20", "numpy")
    with pytest.raises(BackendError, match="is a class, so give an object of it$"):
        get_backend(type(BACKEND))
    assert require(get_backend("torch"), LayersAlone) is get_backend("torch")
    with pytest.raises(BackendError, match="a backend is a name or an object with the members of .*; PosixPath has no"):
        get_backend(tmp_path)


def test_a_pair_of_networks_may_be_of_it(installed: None, monkeypatch) -> None:
    pair = build("cifar_resnet20", "torch", seed=3), build("cifar_resnet20", BACKEND, seed=3)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    with pytest.raises(SpecError, match="or of the backend numpy, got Network"):
        parity(pair, images=images)
    monkeypatch.setattr(type(BACKEND), "network_type", type(pair[1]), raising=False)
    report = parity(pair, images=images)
    assert [rung.status for rung in report.rungs] == ["pass"] * 5 + ["skip"] * 3, report.verdict()
    other = build("cifar_resnet20", BACKEND, seed=4)
    assert parity((other, pair[0]), images=images).failure.name == "weights"


def test_commands_say_in_one_line_what_it_cannot_do(installed: None, command, tmp_path) -> None:
    code, _, complaint = command(
        *["train", "cifar_resnet20", "--recipe", "digits", "--in-channels", "1", "--backend", "numpy"]
    )
    assert "numpy cannot train" in complaint
    assert "Traceback" not in complaint
    assert code == 2
    code, out, _ = command(*f"capture cifar_resnet20 --backend numpy --out {tmp_path / 'out'}".split())
    assert "numpy cannot run layers alone; the rungs that need it are left out" in out
    assert code == 0


class Incomplete:
    """A backend's class without most members."""

    name = "incomplete"


class Untold(type(BACKEND)):
    """A backend that cannot tell its version."""

    def version(self) -> str:
        raise RuntimeError("no framework here\nat all")


@pytest.mark.parametrize(
    "target, complaint",
    [
        ("Incomplete", "; Incomplete is a class, so give an object of it"),
        ("INCOMPLETE", "; Incomplete has no version, devices, build, "),
        ("UNTOLD", "backend 'numpy': version() fails: no framework here"),
    ],
)
def test_a_strange_entry_point_is_refused_in_one_line(monkeypatch, command, target: str, complaint: str) -> None:
    point = EntryPoint("strange", f"{__name__}:{target}", registry.GROUP)
    monkeypatch.setattr(registry, "_third_party", lambda: {"strange": point})
    registry._load.cache_clear()
    for line in ("trace cifar_resnet20 --backend strange", "parity cifar_resnet20 --backends torch,strange"):
        code, _, err = command(*line.split())
        assert (code, err.count("\n")) == (2, 1)
        assert complaint in err


INCOMPLETE, UNTOLD = Incomplete(), Untold()


def test_its_entry_point_makes_it_a_backend_of_the_command_line(tmp_path) -> None:
    package = tmp_path / "resnet_xf_numpy-0.1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: resnet-xf-numpy\nVersion: 0.1.0\n")
    lines = (FOLDER / "pyproject.toml").read_text().splitlines()
    points = lines[lines.index('[project.entry-points."resnet_xf.backends"]') + 1]
    (package / "entry_points.txt").write_text("[resnet_xf.backends]\n" + points.replace('"', "") + "\n")
    path = os.pathsep.join([str(tmp_path), str(FOLDER), *sys.path])
    options = ["parity", "cifar_resnet20", "--backends", "torch,numpy", "--level", "quick"]
    line = [sys.executable, "-m", "resnet_xf", *options]
    done = subprocess.run(line, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch and numpy are the same network in inference (5 rungs hold)" in " ".join(done.stdout.split())
