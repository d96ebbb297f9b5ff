"""The public names of the package, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import resnet_xf

HEAVY = {"msgspec", "mxnet", "numpy", "PIL", "pooch", "resnet_xf_mxnet", "resnet_xf_torch", "rich", "scipy", "sklearn"}
HEAVY |= {"matplotlib", "safetensors", "timm", "torch", "torchvision", "typer"}


def test_every_public_name_is_there_and_documented() -> None:
    assert len(resnet_xf.__all__) < 40
    for name in resnet_xf.__all__:
        if name != "__version__":
            assert getattr(resnet_xf, name).__doc__, name
    assert "ResNetXFError" not in resnet_xf.__all__
    assert resnet_xf.errors.SpecError.__module__ == "resnet_xf.errors"


def test_type_checkers_see_the_names_that_python_gives() -> None:
    tree = ast.parse(Path(resnet_xf.__file__).with_suffix(".pyi").read_text())
    listed = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert listed == sorted(resnet_xf.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, resnet_xf; print({HEAVY} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "set()\n"
