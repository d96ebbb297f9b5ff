"""The code in the README and in docs/ runs, and what the pages show is what the commands print.

A fenced block of Python runs as it is. A block of shell commands runs line by line, in a folder that holds the files that
the pages speak of. An HTML comment in front of a fence changes that:

- ``<!-- not run: REASON -->``: the block is not run;
- ``<!-- run with: OPTIONS -->``: its commands are run with these options as well, which make them small.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from PIL import Image

import resnet_xf
from helpers.narrow import narrowed
from resnet_xf import ResNetSpec, get_recipe, get_spec, list_models
from resnet_xf.architecture import nodes
from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.spec import SqueezeExcitation, Stage, Stem
from resnet_xf.cli.application import COMMANDS
from resnet_xf.formats.description import Description
from resnet_xf.ladder.accuracy.equivalence import Equivalence, compare
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe, Schedule

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
TRANSLATIONS = {CHINESE: README, ROOT / "docs" / "d2l.zh-CN.md": ROOT / "docs" / "d2l.md"}
PAGES = [README, CHINESE, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DESCRIBED = {
    struct.__name__: struct
    for struct in (ResNetSpec, Stem, Stage, SqueezeExcitation, Recipe, Optimizer, Schedule, Augmentation)
}


class Block(NamedTuple):
    """A fenced block of a page, and the comment in front of it."""

    page: Path
    line: int
    language: str
    code: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.stem}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"(?:<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[2] == language:
            yield Block(page, text.count("\n", 0, found.start(2)) + 1, language, found[3], found[1] or "")


def run(block: Block) -> bool:
    return not block.mark.startswith("not run: ")


def without_comments(block: Block) -> str:
    """The code alone, so that a translated comment makes no difference."""
    if block.language == "python":
        return ast.unparse(ast.parse(block.code))
    return "\n".join(shlex.join(words) for line in block.code.splitlines() if (words := shlex.split(line, True)))


PYTHON = [block for page in PAGES if page not in TRANSLATIONS for block in blocks(page, "python") if run(block)]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block: Block, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.code, str(block), "exec"), {})
    printed = capsys.readouterr().out
    for line, shown in re.findall(r"^print\((.*?)\)  # (.*)$", block.code, re.MULTILINE):
        assert shown in printed, line


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """The files that the pages' commands read: a checkpoint, images, a spec."""
    folder = tmp_path_factory.mktemp("files")
    network = resnet_xf.plan("cifar_resnet20")
    resnet_xf.write_checkpoint(folder / "tuned.params", resnet_xf.draw_weights(network), network)
    for kind in ("photographs", "pets/cat", "pets/dog", "pets/owl"):
        (folder / kind).mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
    shutil.copy(folder / "photographs" / "0.png", folder / "photo.png")
    (folder / "mine.toml").write_text(next(blocks(ROOT / "docs" / "spec.md", "toml")).code)
    return folder


COMMAND_PAGES = [page for page in PAGES if page not in TRANSLATIONS and any(map(run, blocks(page, "sh")))]


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=lambda page: page.stem)
def test_commands_run(page: Path, files: Path, tmp_path, monkeypatch, command: Callable[..., Any]) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for block in filter(run, blocks(page, "sh")):
        options = block.mark.removeprefix("run with: ").split()
        for line in block.code.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "resnet-xf", f"{block}: run only resnet-xf here, or say why not: <!-- not run: … -->"
            code, out, err = command(*arguments, *options)
            assert code == 0, f"{block}: {line}\n{out}{err}"


def test_marks_say_why() -> None:
    for block in (block for page in PAGES for language in ("sh", "python") for block in blocks(page, language)):
        assert re.fullmatch(r"(not run: .{6,}|run with: -.+)?", block.mark), f"{block}: {block.mark!r}"
    languages = {word for page in PAGES for word in re.findall(r"^```(\w+)$", page.read_text("utf-8"), re.MULTILINE)}
    assert languages <= {"sh", "python", "toml", "diff", "json"}, "a block of another language is not run"


@pytest.mark.parametrize("language", ["sh", "python"])
def test_a_translation_has_the_same_code(language: str) -> None:
    for translated, page in TRANSLATIONS.items():
        assert [*map(without_comments, blocks(translated, language))] == [
            *map(without_comments, blocks(page, language))
        ]


def test_links_and_paths_lead_somewhere() -> None:
    pattern = r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)"
    links = [
        (page, link)
        for page in (*PAGES, ROOT / "CHANGELOG.md")
        for link in re.findall(pattern, without_blocks(page.read_text("utf-8")))
    ]
    assert not [link for page, link in links if not (page.parent / link).exists()]
    pattern = r"`((?:backends|benchmarks|docs|examples|resnet_xf|tests)/[\w./]*)`"
    paths = {path for page in PAGES for path in re.findall(pattern, page.read_text("utf-8"))}
    assert not [path for path in paths if not (ROOT / path).exists()]


def without_blocks(text: str) -> str:
    """The text without its fenced blocks: ``FUNCTIONS[name](x)`` is no link."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def tables(mark: str) -> Iterator[tuple[str, list[list[str]]]]:
    """What follows the mark's colon, and the cells of the table behind it, without its two first lines."""
    for page in PAGES:
        for found in re.finditer(
            rf"^<!-- {mark}(?:: (\w+))? -->\n((?:\|.*\n)+)", page.read_text(encoding="utf-8"), re.M
        ):
            rows = found[2].splitlines()[2:]
            yield found[1], [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def default(field: msgspec.structs.FieldInfo) -> str:
    """As TOML shows it; nothing if it must be given, or is a struct that has a table of its own."""
    value = field.default
    if value is msgspec.NODEFAULT or isinstance(value, msgspec.Struct):
        return ""
    return "none" if value is None else f"`{json.dumps(value)}`"


def test_every_field_has_a_line() -> None:
    shown = {name: {row[0].strip("`"): row[1] for row in rows} for name, rows in tables("fields")}
    fields = {name: msgspec.structs.fields(struct) for name, struct in DESCRIBED.items()}
    assert shown == {name: {field.name: default(field) for field in some} for name, some in fields.items()}


def test_every_kind_of_node_has_a_line_and_shows_fields_of_its_own() -> None:
    kinds = [kind for kind in vars(nodes).values() if isinstance(kind, type) and issubclass(kind, nodes.Node)]
    fields = {kind.__name__: {field.name for field in dataclasses.fields(kind)} for kind in kinds if is_concrete(kind)}
    table = (ROOT / "docs" / "backends.md").read_text().partition("\n| node | fields |")[2].partition("\n\n")[0]
    cells = dict(re.findall(r"^\| `(\w+)` \| (.*?)\|", table, re.MULTILINE))
    choices = r": `[^;|]*"  # after the colon, as in `operation`: `max`, `avg`; `kernel`
    shown = {name: {*re.findall(r"`(\w+)`", re.sub(choices, "", cell))} for name, cell in cells.items()}
    assert shown.keys() == fields.keys()
    assert not {name: more for name in shown if (more := shown[name] - fields[name])}


def is_concrete(kind: type[nodes.Node]) -> bool:
    return dataclasses.is_dataclass(kind) and kind is not nodes.Chain


def test_every_command_has_a_line() -> None:
    ((_, rows),) = tables("commands")
    named = [row[0].removeprefix("`resnet-xf ").partition(" ")[0].strip("`") for row in rows]
    assert sorted(named) == sorted(entry.name for entry in COMMANDS)


def test_the_same_network_stands_there_in_python_and_in_toml() -> None:
    spec = ResNetSpec.from_toml(next(blocks(ROOT / "docs" / "spec.md", "toml")).code)
    scope: dict[str, Any] = {}
    exec(next(blocks(ROOT / "docs" / "getting-started.md", "python")).code.partition("for row")[0], scope)
    assert scope["spec"] == spec
    assert plan(spec)


def test_every_json_block_describes_a_checkpoint() -> None:
    shown = [block for page in PAGES for block in blocks(page, "json")]
    assert len(shown) == 1
    description = Description.from_json(shown[0].code)
    assert description.classes == ("cat", "dog")
    description.check(get_spec("resnet18"), "net.params")


def test_the_recipe_in_toml_is_one(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(next(blocks(ROOT / "docs" / "training.md", "toml")).code)
    assert get_recipe(path).schedule.kind == "cosine"


def test_the_numbers_of_networks_and_defects_are_right() -> None:
    for page in (README, ROOT / "docs" / "getting-started.md", ROOT / "docs" / "spec.md"):
        assert f"{len(list_models())} n" in page.read_text()  # 116 networks, 116 named networks
    defects = sum(line.startswith("| ") for line in (ROOT / "docs" / "mutants.md").read_text().splitlines()) - 2
    assert f"{defects} defects" in README.read_text()


def shown(page: Path) -> set[str]:
    return {block.code.strip() for block in blocks(page, "")}


def test_the_ladder_shown_is_the_ladder_printed(command, tmp_path) -> None:
    """All but what varies: versions, seconds, rounding errors and the layer where they are largest."""

    def fixed(text: str) -> str:
        text = re.sub(r"torch \S+, mxnet \S+, onnx \S+;|\(layer\S+\)", "", text)
        return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?e[+-]\d+|\d+\.\d+", "#", text))

    narrow = narrowed(get_spec("resnet18"), 8)  # it has as many layers, and trains as long
    (tmp_path / "narrow.toml").write_text(narrow.to_toml())
    _, quick, _ = command("parity", "resnet18", "--level", "quick")
    _, standard, _ = command("parity", tmp_path / "narrow.toml", "--image-size", "32")
    printed = quick.partition("\nresnet18: ")[0] + standard[standard.index("\n   6  ") :]
    for page in (README, CHINESE):
        assert fixed(printed).strip() in {fixed(text).strip() for text in shown(page)}


def test_the_verdict_shown_is_the_one_found() -> None:
    result = json.loads((BENCHMARKS / "results" / "accuracy_fashion_mnist.json").read_text())
    assert result["holds"]
    measured = msgspec.convert(result["accuracy"], Equivalence)
    again = compare(measured.first, measured.second, measured.accuracies, measured.seeds, measured.margin)
    assert again.sentence() in shown(ROOT / "docs" / "migrating.md")


@pytest.mark.parametrize("name", [path.stem for path in (BENCHMARKS / "results").glob("fashion_mnist*.json")])
def test_the_accuracies_shown_are_those_measured(name: str, tmp_path, capsys, monkeypatch) -> None:
    shutil.copy(BENCHMARKS / "results" / f"{name}.json", tmp_path)
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = str(BENCHMARKS / "fashion_mnist.py")
    monkeypatch.setattr(sys, "argv", [script, "--name", name, "--plot-only", "--out", str(tmp_path)])
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.strip() in shown(ROOT / "docs" / "training.md")


@pytest.mark.parametrize("name", ["build_both", "convert_gluon_file"])
def test_an_example_runs(name: str, capsys) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    assert "largest difference" in capsys.readouterr().out


def test_every_example_is_run() -> None:
    """``test_same_network`` is a test itself: pytest finds it in ``examples/``."""
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {"build_both", "convert_gluon_file", "test_same_network"}


def test_the_change_shown_to_contributors_is_in_the_code() -> None:
    for change in next(blocks(ROOT / "CONTRIBUTING.md", "diff")).code.split("--- a/")[1:]:
        name, *lines = change.splitlines()
        code = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if re.match(r"\+(?!\+)", line) and line[1:] not in code], name


def test_the_version_is_told_in_every_place() -> None:
    assert f"\nversion: {resnet_xf.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {resnet_xf.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
