import subprocess
import sys
import textwrap

import numpy as np
import pytest

from helpers.runs import TINY
from resnet_xf import build, draw_weights, features, get_backend, list_backends, parity
from resnet_xf.backend import registry as backend
from resnet_xf.backend.registry import how_to_install
from resnet_xf.errors import BackendError, SpecError, WeightsError


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run([sys.executable, *options, "-c", textwrap.dedent(code)], capture_output=True, text=True)


WITHOUT = """
import sys, importlib.util
blocked = {blocked!r}
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in blocked else find(name, *rest)
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_importing_the_package_imports_no_framework() -> None:
    code = """
    import sys, resnet_xf
    from resnet_xf import cli
    resnet_xf.trace("resnet18", (1, 3, 224, 224))
    resnet_xf.draw_weights("d2l_resnet18")
    heavy = ("torch", "torchvision", "mxnet", "onnx", "onnxruntime", "timm", "sklearn", "scipy", "resnet_xf_torch", "resnet_xf_mxnet", "resnet_xf_onnx")
    print(sorted(set(heavy) & set(sys.modules)))
    """
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("asked, others", [("torch", {"mxnet", "torch._inductor"}), ("mxnet", {"torch"})])
def test_neither_a_backend_that_was_not_asked_for_nor_a_compiler_is_imported(asked: str, others: set[str]) -> None:
    build = f"import sys, resnet_xf; resnet_xf.build('cifar_resnet20', {asked!r})"
    done = run(f"{build}; print({asked!r} in sys.modules, {others} & set(sys.modules))")
    assert done.stdout.strip() == "True set()", done.stderr


def test_argument_beats_variable_beats_default(monkeypatch) -> None:
    assert get_backend().name == "torch"
    monkeypatch.setenv("RESNET_XF_BACKEND", "mxnet")
    assert get_backend().name == "mxnet"
    assert get_backend("torch").name == "torch"
    assert type(build(TINY, backend="torch")).__module__.startswith("torch.")
    assert type(build(TINY)).__module__.startswith("resnet_xf_mxnet.")
    monkeypatch.setenv("RESNET_XF_BACKEND", "")
    assert get_backend().name == "torch"


@pytest.mark.parametrize("alias, name", [("pytorch", "torch"), ("gluon", "mxnet")])
def test_aliases(monkeypatch, alias: str, name: str) -> None:
    assert get_backend(alias).name == name
    monkeypatch.setenv("RESNET_XF_BACKEND", alias)
    assert get_backend().name == name


def test_an_unknown_backend_lists_the_choices(monkeypatch) -> None:
    with pytest.raises(BackendError, match="no backend is called 'jax'; choose one of torch, mxnet"):
        get_backend("jax")
    monkeypatch.setenv("RESNET_XF_BACKEND", "tensorflow")
    with pytest.raises(BackendError, match="RESNET_XF_BACKEND: no backend is called 'tensorflow'; choose one of torch"):
        build("resnet18")


@pytest.mark.parametrize(
    "blocked, code, says",
    [
        (
            ["mxnet"],
            "get_backend('mxnet')",
            "MissingExtraError: backend 'mxnet' builds in Apache MXNet Gluon, and the package 'mxnet' is not installed; run: pip install",
        ),
        (
            ["torch"],
            "get_backend('torch')",
            "MissingExtraError: backend 'torch' builds in PyTorch, and the package 'torch' is not installed; run: pip install 'resnet-xf[torch]'",
        ),
        (
            ["torch", "mxnet", "onnx"],
            "get_backend()",
            "MissingExtraError: no backend is installed; run pip install 'resnet-xf[torch]' or pip",
        ),
    ],
)
def test_a_missing_backend_says_how_to_get_it(blocked: list[str], code: str, says: str) -> None:
    done = run(WITHOUT.format(blocked=blocked) + f"from resnet_xf import get_backend\n{code}")
    last = done.stderr.strip().splitlines()[-1]
    assert says in last


def test_without_torch_the_only_installed_backend_is_the_default() -> None:
    done = run(WITHOUT.format(blocked=["torch"]) + "from resnet_xf import get_backend\nprint(get_backend().name)")
    assert done.stdout.strip() == "mxnet", done.stderr
    done = run(
        WITHOUT.format(blocked=["torch", "mxnet"]) + "from resnet_xf import get_backend\nprint(get_backend().name)"
    )
    assert done.stdout.strip() == "onnx", done.stderr
    # ONNX Runtime alone is not enough
    done = run(
        WITHOUT.format(blocked=["onnx"])
        + "from resnet_xf.backend.registry import is_installed\nprint(is_installed('onnx'))"
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    "blocked, compared",
    [
        ([], ["torch", "mxnet", "onnx"]),
        (["mxnet"], ["torch", "onnx"]),
        (["mxnet", "onnx"], ["torch", "onnx"]),
        (["torch", "onnx"], ["mxnet", "torch"]),
        (["torch", "mxnet", "onnx"], ["torch", "onnx"]),
    ],
)
def test_parity_compares_all_that_are_installed(blocked: list[str], compared: list[str]) -> None:
    code = "from resnet_xf.backend.registry import backends_to_compare\nprint(backends_to_compare())"
    done = run(WITHOUT.format(blocked=blocked) + code)
    assert done.stdout.strip() == str(compared), done.stderr


def test_a_broken_framework_shows_its_cause(tmp_path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.99: cannot open shared object file')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from resnet_xf import get_backend; get_backend('torch')"
    done = run(code)
    assert "BackendError: backend 'torch' is installed but does not import: libcudart.so.99" in done.stderr
    assert "The above exception was the direct cause" in done.stderr


def test_a_third_party_backend_is_found_and_a_broken_one_harms_no_other(tmp_path) -> None:
    package = tmp_path / "other_backends-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other-backends\nVersion: 1.0\n")
    points = "[resnet_xf.backends]\nours = ours:BACKEND\nbroken = nowhere_at_all:BACKEND\n"
    (package / "entry_points.txt").write_text(points)
    (tmp_path / "ours.py").write_text("class B:\n    name = 'ours'\nBACKEND = B()\n")
    code = f"""
    import sys; sys.path.insert(0, {str(tmp_path)!r})
    from resnet_xf import get_backend, list_backends
    print(list_backends(), get_backend("ours").name, get_backend("torch").name)
    get_backend("broken")
    """
    done = run(code)
    assert done.stdout.strip() == "['torch', 'mxnet', 'onnx', 'ours', 'broken'] ours torch"
    assert "BackendError: backend 'broken' is installed but does not import: No module named" in done.stderr


@pytest.mark.parametrize(
    "version, system, machine, says",
    [
        ((3, 11), "linux", "x86_64", "pip install 'resnet-xf[mxnet]'"),
        ((3, 13), "linux", "x86_64", "pip install --no-deps mxnet==1.9.1 && pip install 'resnet-xf[mxnet]'"),
        ((3, 12), "win32", "AMD64", "no wheel"),
        ((3, 12), "darwin", "arm64", "no wheel"),
        ((3, 12), "darwin", "x86_64", "pip install 'resnet-xf[mxnet]'"),
    ],
)
def test_how_to_install_mxnet_depends_on_the_machine(monkeypatch, version, system, machine, says: str) -> None:
    monkeypatch.setattr(backend.sys, "version_info", version)
    monkeypatch.setattr(backend.sys, "platform", system)
    monkeypatch.setattr(backend.platform, "machine", lambda: machine)
    assert says in how_to_install("mxnet")


def test_built_in_backends_are_the_entry_points() -> None:
    from importlib.metadata import entry_points

    declared = {point.name: point.value for point in entry_points(group=backend.GROUP)}
    assert {name: known.target for name, known in backend.BUILT_IN.items()} == declared
    assert list_backends() == list(backend.BUILT_IN)


def test_every_backend_begins_with_the_same_weights() -> None:
    networks = {name: build(TINY, name, seed=5) for name in list_backends()}
    dumped = {name: get_backend(name).dump(network) for name, network in networks.items()}
    assert all(np.array_equal(dumped["torch"][k], dumped["mxnet"][k]) for k in dumped["torch"])


def test_building_asks_for_no_devices(monkeypatch) -> None:
    """Asking PyTorch for them would start CUDA, which a network on the CPU does without."""
    backend = get_backend("torch")
    monkeypatch.setattr(type(backend), "devices", None)
    assert build("cifar_resnet20", backend) is not None
    assert build("cifar_resnet20", "torch") is not None


def test_a_session_of_onnx_runtime_is_no_network_of_a_pair() -> None:
    network, images = build(TINY, "onnx"), np.zeros((1, 1, 12, 12), np.float32)
    get_backend("onnx").forward(network, images)  # opens a session
    with pytest.raises(SpecError, match=r"or a mxnet\.gluon\.HybridBlock, got InferenceSession$"):
        parity((build(TINY, "torch"), network.session), images=images)


@pytest.mark.parametrize("make", [build, features])
def test_spec_and_weights_together_are_no_weights(make) -> None:
    with pytest.raises(WeightsError, match="^weights: expected a mapping of names to arrays, got tuple; "):
        make(TINY, "torch", weights=(TINY, draw_weights(TINY)))


@pytest.mark.parametrize("make", [build, features])
def test_a_dtype_that_no_network_is_built_in_is_refused(make) -> None:
    with pytest.raises(BackendError, match="^no network is built in 'float16'; choose float32 or float64, and cast it"):
        make(TINY, "torch", dtype="float16")
