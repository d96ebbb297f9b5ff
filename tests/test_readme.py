"""The README's code runs, and what it shows is what the commands print."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from resnet_xf import ResNetSpec, cli, get_recipe, list_models
from resnet_xf.architecture.plan import plan
from resnet_xf.ladder.accuracy.equivalence import Equivalence, compare

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [code for marked, code in fenced if marked == language]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, capsys) -> None:
    exec(compile(code, "README.md", "exec"), {})
    for line, shown in re.findall(r"^print\((.*?)\)  # (.*)$", code, re.MULTILINE):
        assert shown in capsys.readouterr().out, line


def test_the_same_network_stands_there_in_python_and_in_toml() -> None:
    spec = ResNetSpec.from_toml(next(text for text in blocks("toml") if "stages" in text))
    scope: dict[str, object] = {}
    exec(blocks("python")[0].partition("for row")[0], scope)
    assert scope["spec"] == spec
    assert plan(spec)


def test_the_recipe_in_toml_is_one(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(next(text for text in blocks("toml") if "epochs" in text))
    assert get_recipe(path).schedule.kind == "cosine"


def test_the_number_of_networks_is_the_zoos() -> None:
    assert f"shows {len(list_models())} networks" in TEXT


def test_the_ladder_shown_is_the_ladder_printed(capsys, monkeypatch) -> None:
    """All but what varies: versions, seconds, rounding errors and the layer where they are largest."""
    monkeypatch.setattr("sys.argv", ["resnet-xf", "parity", "resnet18"])
    with pytest.raises(SystemExit):
        cli.main()

    def fixed(text: str) -> str:
        text = re.sub(r"torch \S+, mxnet \S+;|\(layer\S+\)", "", text)
        return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?e-\d+|\d+\.\d+", "#", text))

    printed = fixed(capsys.readouterr().out).strip()
    assert printed in {fixed(block).strip() for block in blocks("")}


def test_the_verdict_shown_is_the_one_found() -> None:
    found = json.loads((BENCHMARKS / "results" / "accuracy_fashion_mnist.json").read_text())
    assert found["holds"]
    told = msgspec.convert(found["accuracy"], Equivalence)
    again = compare(told.first, told.second, told.accuracies, told.seeds, told.margin)
    assert again.sentence() in {block.strip() for block in blocks("")}


@pytest.mark.parametrize("name", [path.stem for path in (BENCHMARKS / "results").glob("fashion_mnist*.json")])
def test_the_accuracies_shown_are_those_measured(name: str, tmp_path) -> None:
    shutil.copy(BENCHMARKS / "results" / f"{name}.json", tmp_path)
    again = [sys.executable, BENCHMARKS / "fashion_mnist.py", "--name", name, "--plot-only", "--out", tmp_path]
    printed = subprocess.run(again, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in {block.strip() for block in blocks("")}
