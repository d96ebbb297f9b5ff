"""The plugin in runs of pytest: one in processes of its own, as a person's is, and the others in this process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import pytest
from resnet_xf import ResNetSpec, Stage, Stem
SPEC = ResNetSpec(name="tiny", stem=Stem(kind="conv3", width=4, stride=1), stages=(Stage(depth=1, channels=4),),
                  num_classes=3, image_size=(8, 8))
"""

BROKEN = """
from resnet_xf import get_backend
class Other:
    name = "other"
    def __init__(self): self.real = get_backend("torch")
    def __getattr__(self, name): return getattr(self.real, name)
    def forward(self, network, images): return self.real.forward(network, images)[:, ::-1].copy()
"""


HERE = ("-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:hypothesispytest", "--capture=sys")
"""Without the plugins that change a process for good."""


def write(folder: Path, body: str, ini: str = "") -> None:
    (folder / "test_nets.py").write_text(BEGIN + body)
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers --strict-config\n{ini}")


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys):
    """pytest in a folder with that test module, in this process: its exit code and what it says."""

    def run(body: str, *arguments: str, ini: str = "") -> tuple[int, str]:
        write(tmp_path, body, ini)
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "path", [*sys.path])
            try:
                code = pytest.main([*HERE, *arguments])
            finally:
                sys.modules.pop("test_nets", None)
        return int(code), "".join(capsys.readouterr())

    return run


def test_importing_the_plugin_imports_nothing_else() -> None:
    code = "import sys, resnet_xf_pytest; print({'numpy', 'resnet_xf', 'torch', 'mxnet', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "set()\n"


def test_proofs_differences_and_reports(tmp_path: Path) -> None:
    write(
        tmp_path,
        BROKEN
        + """
@pytest.mark.parity(level="quick")
class TestNets:
    def test_same(self, assert_parity):
        assert assert_parity(SPEC, ["torch", "mxnet"]).level == "quick"

    @pytest.mark.parity(image_size=(9, 7))
    def test_other_size(self, assert_parity):
        assert assert_parity(SPEC).input_shape[2:] == (9, 7)
        assert assert_parity(SPEC, image_size=(8, 9)).input_shape[2:] == (8, 9)

    def test_differs(self, assert_parity):
        assert_parity(SPEC, ["torch", Other()])

    def test_wrong(self, assert_parity):
        assert_parity("no_such_net")
""",
    )
    options = ("--parity-level=standard", "--parity-report=out", "-n1")
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "2 failed, 2 passed" in said
    assert "parity: 3 networks proven, 1 differs" in said
    assert "- parity of tiny -" in said
    assert re.search(r"^4 +forward float64 +fail .* the whole network: other is not torch", said, re.M)
    assert "E       AssertionError: tiny: torch and other differ on rung 4" in said
    assert "E       resnet_xf.errors.SpecError: " in said
    assert "ladder/climb.py" not in said
    assert "resnet_xf_pytest/__init__.py" not in said
    written = sorted((tmp_path / "out").iterdir())
    assert sorted(path.suffix for path in written) == [".html"] * 4 + [".json"] * 4 + [".xml"] * 4
    failed = [path for path in written if path.match("test_nets.py-TestNets-test_differs-*.json")]
    assert json.loads(failed[0].read_text())["holds"] is False


def test_levels_and_skips(run) -> None:
    body = """
import resnet_xf.backend.registry

def test_level(assert_parity):
    assert assert_parity(SPEC, ["torch", "onnx"]).level == "quick"

@pytest.fixture
def no_mxnet(monkeypatch):
    found = resnet_xf.backend.registry.is_installed
    monkeypatch.setattr(resnet_xf.backend.registry, "is_installed", lambda name: name != "mxnet" and found(name))
    resnet_xf.backend.registry._load.cache_clear()

def test_left(no_mxnet, assert_parity):
    assert_parity(SPEC, "gluon,pytorch")
"""
    code, said = run(body, "-rs", ini="parity_level = quick\n")
    assert code == 0, said
    assert "parity: 1 network proven, 1 not compared" in said
    assert re.search(r"SKIPPED .* backend 'mxnet' is not installed; run: pip install", said)
    code, said = run(body, "-k", "left", "--parity-strict")
    assert code == 1
    assert "MissingExtraError: backend 'mxnet' builds in Apache MXNet Gluon" in said


@pytest.mark.parametrize(
    "ini, body, says",
    [
        ("parity_level = best\n", "", "parity_level: no level is called 'best'; choose one of quick, standard, full"),
        ("", "@pytest.mark.parity('quick')\ndef test_it(assert_parity): pass", "parity takes named options alone"),
    ],
)
def test_settings_that_make_no_sense_are_refused(run, ini: str, body: str, says: str) -> None:
    code, said = run(body, ini=ini)
    assert code != 0
    assert says in said


def test_without_comparisons_nothing_is_said(run) -> None:
    code, said = run("def test_it(): pass")
    assert code == 0
    assert "parity" not in said
