"""The five laws' structure: which room may import which, and that no function hides a module."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import resnet_xf
from resnet_xf.backend.registry import BUILT_IN

FLOORS = (
    "errors",
    "support",
    "architecture",
    "data",
    "backend",
    "formats",
    "codegen",
    "training",
    "ladder",
    "migration",
    "speed",
    "cli",
)
"""The lowest first: each may import those before it."""

PACKAGE = Path(resnet_xf.__file__).parent
ROOT = Path(__file__).parent.parent
FRAMEWORKS = {
    "torch",
    "mxnet",
    "onnx",
    "onnxruntime",
    "torchvision",
    "timm",
    *(f"resnet_xf_{name}" for name in BUILT_IN),
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            whole = node.module == "resnet_xf"
            yield from (f"resnet_xf.{alias.name}" for alias in node.names) if whole else (node.module or "",)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_each_room_imports_only_rooms_below_it() -> None:
    upwards = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room not in FLOORS:
            continue
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("resnet_xf.") else room
            if other in FLOORS and FLOORS.index(other) > FLOORS.index(room):
                upwards.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not upwards


def test_a_room_that_is_imported_from_the_package_is_seen(tmp_path) -> None:
    (tmp_path / "module.py").write_text("from resnet_xf import cli\n")
    assert [*imports(tmp_path / "module.py")] == ["resnet_xf.cli"]


def test_every_room_has_a_floor() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= set(FLOORS)


def test_the_neutral_half_imports_no_framework() -> None:
    found = [(path.name, name) for path in PACKAGE.rglob("*.py") for name in imports(path)]
    assert not [(path, name) for path, name in found if name.split(".")[0] in FRAMEWORKS]


def modules() -> list[str]:
    return [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "resnet_xf.") if "__main__" not in info.name]


@pytest.mark.parametrize("name", modules())
def test_no_function_hides_a_module(name: str) -> None:
    scope: dict[str, object] = {}
    exec(f"import {name} as found", scope)
    assert scope["found"] is importlib.import_module(name)
    assert isinstance(scope["found"], ModuleType)


def test_no_module_is_long() -> None:
    files = [path for folder in ("resnet_xf*", "backends") for path in ROOT.glob(f"{folder}/**/*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {"resnet_xf/training/runs.py", "backends/resnet_xf_torch/bench.py"} < lines.keys()
    assert not {name: count for name, count in lines.items() if count > 400}
