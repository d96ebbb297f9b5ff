"""The notebooks of ``examples/`` run, and show what is stored in them; the page ``docs/d2l.md`` shows their cells."""

import json
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from resnet_xf import trace

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {name: ROOT / "examples" / f"d2l_resnet18_{name}.ipynb" for name in ("pytorch", "mxnet")}
PAGES = [ROOT / "docs" / name for name in ("d2l.md", "d2l.zh-CN.md")]

BOOK = [(64, 24, 24), (64, 24, 24), (128, 12, 12), (256, 6, 6), (512, 3, 3), (512, 1, 1), (512,), (10,)]
"""The shapes that the book prints for one image of 96×96, without the number of images."""


def cells(name: str) -> dict[str, dict[str, Any]]:
    """The notebook's cells of code, in order."""
    notebook = json.loads(NOTEBOOKS[name].read_text("utf-8"))
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


def shapes(text: str) -> list[tuple[int, ...]]:
    """The shapes in a table of layers, without the number of images."""
    return [tuple(int(side) for side in re.findall(r"\d+", shape))[1:] for shape in re.findall(r"\((\d.*?)\)", text)]


@pytest.fixture
def scope(monkeypatch):
    """The names of a notebook; what it changes in this process is changed back."""
    monkeypatch.setenv("RESNET_XF_BACKEND", "")  # as if it were not set
    yield {"__name__": "__main__"}
    if mx := sys.modules.get("mxnet"):
        mx.npx.reset_np()


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore")  # what a reader sees on stderr
def test_a_notebook_prints_what_it_shows(name: str, scope) -> None:
    for key, cell in cells(name).items():
        with redirect_stdout(StringIO()) as out:
            exec(compile(source(cell), f"{name}:{key}", "exec"), scope)
        assert cell["execution_count"] is not None
        if "measured" in cell["metadata"].get("tags", ()):
            assert re.sub(r"\d", "", out.getvalue()) == re.sub(r"\d", "", printed(cell))
        else:
            assert out.getvalue() == printed(cell), key


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_shapes_are_the_books(name: str) -> None:
    shown = {key: printed(cell) for key, cell in cells(name).items()}
    assert shown["block"] == shown["ours-block"] == "(4, 3, 6, 6)\n(4, 6, 3, 3)\n"
    assert shapes(shown["table"]) == BOOK
    ours = dict(re.findall(r"^(\w+) +\(1, (.*?),?\)", shown["ours-table"], re.MULTILINE))
    rows = [ours[layer] for layer in ("maxpool", *(f"layer{n}" for n in range(1, 5)), "global_pool", "flatten", "fc")]
    assert [tuple(map(int, row.split(", "))) for row in rows] == BOOK
    assert shown["same"] == "largest difference is below 1e-5: True\n"


def test_what_we_compute_is_the_books_table() -> None:
    rows = {row.name: row.output_shape[1:] for row in trace("d2l_resnet18", (1, 1, 96, 96), top=True)}
    assert [
        rows[name] for name in ("maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "flatten", "fc")
    ] == BOOK


def test_the_page_shows_the_cells() -> None:
    sources = [source(cell) for name in NOTEBOOKS for cell in cells(name).values()]
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)\n```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        assert len(blocks) >= 14
        assert not [block for block in blocks if block not in sources]
