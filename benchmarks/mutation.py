"""Test the tests: change one operator, number or condition of the product at a time, and see which tests fail.

The modules in ``OWN`` are changed in a copy of the tree, one sampled change ("mutant") at a time; docstrings, texts,
annotations, decorators and what only prints are left alone. The module's own tests that execute the changed line run,
the quickest first; if an import executes the line, all of them. The first failure, or the time limit,
catches the mutant. A survivor is explained in ``mutation_survivors.json``, or wants a test.

    python benchmarks/mutation.py --sample 300 --seed 0     # prints the table, and writes docs/mutation.md
"""

from __future__ import annotations

import argparse
import ast
import compileall
import functools
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "mutation.md", ROOT / "benchmarks" / "results" / "mutation.json"
EXPLAINED = ROOT / "benchmarks" / "mutation_survivors.json"

OWN = {
    "architecture/plan": "plan nodes trace weights spec explicit families",
    "architecture/trace": "trace plan weights",
    "architecture/weights": "weights checkpoint",
    "architecture/measures": "measures rewrite",
    "architecture/rewrite": "rewrite",
    "architecture/nodes": "nodes plan trace weights rewrite",
    "architecture/windows": "windows nodes",
    "architecture/explicit": "explicit graph",
    "architecture/pruned": "families",
    "training/recipe": "recipe checkpoint",
    "training/checkpoint": "checkpoint",
    "data/batches": "batches data datasets",
    "data/datasets": "datasets data description",
    "data/fetch": "datasets",
    "data/folders": "datasets",
    "data/images": "data datasets batches",
    "data/lists": "datasets",
    "data/published": "datasets",
    "data/randomness": "batches data",
    "data/recordio": "recordio",
    "data/splits": "datasets data batches",
    "data/transform": "batches data datasets description",
    "formats/assume": "assume",
    "formats/convert": "description exports identify backbone formats",
    "formats/converters": "graph families backbone explicit gluon_symbol",
    "formats/description": "description",
    "formats/exported": "gluon_symbol backbone",
    "formats/exports": "exports",
    "formats/families": "identify assume families formats",
    "formats/files": "files description identify hostile_files formats",
    "formats/gluon_params": "formats hostile_files",
    "formats/gluon_symbol": "gluon_symbol formats",
    "formats/graph": "graph backbone",
    "formats/identify": "identify assume backbone formats",
    "formats/inspect": "formats description",
    "formats/layouts": "identify assume families formats",
    "formats/load": "loads",
    "formats/loads": "loads",
    "formats/matching": "identify assume families formats",
    "formats/operators": "graph gluon_symbol",
    "formats/recognise": "graph backbone families",
    "formats/refusal": "identify backbone formats",
    "formats/settle": "identify assume formats",
    "formats/steps": "graph assume",
    "ladder/accuracy/equivalence": "equivalence",
}
"""The modules that are changed, each with its own tests."""

SLOW = (
    "prefixed_names_of_old_zoo_files", "eps_and_momentum_of_a_symbol", "new_head_is_read_once_exported",
    "fine_tuned_checkpoint_gives", "seresnet50",
)  # fmt: skip
"""Tests that are not run here, since they take over 10 s each."""

MAPPING = 3600.0
"""The most seconds that a test file may take while its lines are traced."""


class Mutant(NamedTuple):
    """One change: the expression at some place of a module, and what stands there instead.

    ``called`` tells whether it is in a function, and not executed by the import.
    """

    module: str
    line: int
    last: int
    start: int
    end: int
    before: str
    after: str
    called: bool

    @property
    def key(self) -> str:
        """Its name, which does not change when lines above it do."""
        return f"{self.module}: {self.before} → {self.after}"


# What is changed


OTHER = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitOr: (ast.BitAnd,), ast.BitAnd: (ast.BitOr,),
}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
PRINTS = {"__repr__", "__str__", "__rich_repr__"}


def changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Expressions in a node and what each may be replaced by, as source."""

    def other(**fields: Any) -> str:
        return f"({ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), **fields}))})"

    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                for new in OTHER[type(op)]:
                    yield node, other(ops=[*ops[:at], new(), *ops[at + 1 :]])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in OTHER:
            for new in OTHER[type(op)]:
                yield node, other(op=new())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from ((node, f"({new!r})") for new in (value + 1, value - 1))
        case ast.If(test=test) | ast.IfExp(test=test):
            yield from ((test, new) for new in ("True", "False"))
        case ast.While(test=test):
            yield test, "False"
        case ast.comprehension(ifs=ifs):
            yield from ((test, "True") for test in ifs)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield value, "None"
        case ast.Expr(value=ast.Call() as value):
            yield value, "None"
        case ast.Call(func=func, keywords=keywords):
            if isinstance(func, ast.Name) and func.id in SWAPPED:
                yield func, SWAPPED[func.id]
            for keyword in keywords:
                if keyword.arg not in (None, "strict", "encoding"):
                    yield node, other(keywords=[one for one in keywords if one is not keyword])


def mutants(module: str, text: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def inside(node: ast.AST, called: bool) -> Iterator[Mutant]:
        for expression, after in changes(node):
            start, end = (
                starts[expression.lineno - 1] + expression.col_offset,
                starts[(expression.end_lineno or 0) - 1] + (expression.end_col_offset or 0),
            )
            before = " ".join(text.encode()[start:end].decode().split())
            if len(before) < 8 and not isinstance(node, ast.If):  # too little to know it by
                before = f"{before} in “{text.splitlines()[expression.lineno - 1].strip()}” at {expression.col_offset}"
            yield Mutant(module, expression.lineno, expression.end_lineno or 0, start, end, before, after, called)
        for name, field in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "exc", "msg", "type_params"):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, (ast.JoinedStr, ast.Assert)) or getattr(child, "name", None) in PRINTS:
                    continue
                if isinstance(child, ast.AST) and getattr(child, "arg", None) != "help":
                    yield from inside(child, called or (isinstance(node, ast.FunctionDef) and name == "body"))

    yield from inside(ast.parse(text), False)


# Running tests: in a process that is forked after the large imports


def warm() -> None:
    """Import what the tests import, but for the product itself. MXNet does not survive a fork."""
    for name in ("pytest", "hypothesis.extra.numpy", "PIL.Image", "scipy.integrate", "scipy.stats", "torch"):
        with suppress(ImportError):
            importlib.import_module(name)


class Trace:
    """A pytest plugin: the lines of the mutated modules that each test executes, and its seconds."""

    def __init__(self, tree: Path) -> None:
        self.modules = {str(tree / "resnet_xf" / f"{name}.py"): name for name in OWN}
        self.lines: dict[str, set[tuple[str, int]]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.now: set[tuple[str, int]] = set()

    def call(self, frame: FrameType, event: str, arg: object) -> Any:
        """The tracing function; it follows the modules that are mutated, and no other."""
        module = self.modules.get(frame.f_code.co_filename)
        if module is None:
            return None
        now = self.now

        def line(frame: FrameType, event: str, arg: object) -> Any:
            now.add((module, frame.f_lineno))
            return line

        now.add((module, frame.f_lineno))
        return line

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        """Begin a test: what an earlier one left in a cache is computed again, so that its lines count for this one."""
        for module in [
            module
            for name, module in sys.modules.items()
            if name.startswith(("resnet_xf.architecture", "resnet_xf.formats"))
        ]:
            for one in [*vars(module).values()]:
                if isinstance(one, functools._lru_cache_wrapper):
                    one.cache_clear()
        self.now = self.lines[nodeid] = set()
        threading.settrace(self.call)
        sys.settrace(self.call)

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        """End it."""
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the seconds of a test's part."""
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def in_fork(tree: Path, tests: list[str], seconds: float, save: Path | None = None) -> str:
    """Run tests in a forked process: ``passed``, ``failed`` or ``time``. With ``save``, write the tests' trace."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(tree)
            null = os.open(os.devnull if not os.environ.get("MUTATION_LOG") else os.environ["MUTATION_LOG"], os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            import pytest

            trace = Trace(tree)
            leave_out = ["-k", f"not ({' or '.join(SLOW)})"] if any(one.endswith(".py") for one in tests) else []
            code = pytest.main(
                [
                    *([] if save else ["-x"]),
                    "-q",
                    "-n0",
                    "-pno:cacheprovider",
                    "-pno:anyio",
                    "-Wignore:Module already",
                    *leave_out,
                    *tests,
                ],
                plugins=[trace] if save else [],
            )
            if save:
                lines = {name: sorted(some) for name, some in trace.lines.items()}
                save.write_text(json.dumps({"lines": lines, "seconds": trace.seconds, "failed": trace.failed}))
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(int(code))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what a test may have started
            return "passed" if status == 0 else "failed"
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "time"


class Map:
    """Which tests execute a line, from one run of each test file."""

    def __init__(self, tree: Path, cache: Path, modules: set[str]) -> None:
        self.tests: dict[tuple[str, int], list[str]] = defaultdict(list)
        self.files: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        for name in sorted({test for module in modules for test in OWN[module].split()}):
            file = f"tests/test_{name}.py"
            save = cache / f"{name}.json"
            if not save.exists():
                print(f"mapping {file}", file=sys.stderr, flush=True)
                began = time.monotonic()
                in_fork(tree, [file], MAPPING, save)
                print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            data = json.loads(save.read_text())
            self.seconds |= data["seconds"]
            self.files[name] = sum(data["seconds"].values())
            self.failed += data["failed"]
            for test, lines in data["lines"].items():
                for module, line in lines:
                    self.tests[module, line].append(test)

    def order(self, mutant: Mutant) -> Iterator[list[str]]:
        """The own tests that execute the line, file by file, the quickest first; else all own tests."""
        own = OWN[mutant.module].split()
        lines = range(mutant.line, mutant.last + 1) if mutant.called else ()
        hits = {
            test
            for line in lines
            for test in self.tests[mutant.module, line]
            if test.startswith(tuple(f"tests/test_{name}.py::" for name in own))
        } - set(self.failed)
        for name in own:
            file = f"tests/test_{name}.py"
            some = [test for test in hits if test.startswith(f"{file}::")]
            if some:
                yield sorted(some, key=lambda test: self.seconds[test])
            elif not hits:
                yield [file, *(f"--deselect={test}" for test in self.failed)]


def run(mutant: Mutant, tree: Path, known: Map, patience: float) -> str:
    """``caught``, ``time`` (caught by the limit) or ``survived``."""
    path = tree / "resnet_xf" / f"{mutant.module}.py"
    sound, stat = path.read_bytes(), path.stat()
    path.write_bytes(sound[: mutant.start] + mutant.after.encode() + sound[mutant.end :])
    os.utime(path, (stat.st_atime, stat.st_mtime + 1 + random.random() * 1e6))  # no stale bytecode
    try:
        for tests in known.order(mutant):
            name = tests[0].partition("::")[0].removeprefix("tests/test_").removesuffix(".py")
            outcome = in_fork(tree, tests, patience + 3 * known.files[name])
            if outcome != "passed":
                return "caught" if outcome == "failed" else "time"
        return "survived"
    finally:
        path.write_bytes(sound)
        os.utime(path, (stat.st_atime, stat.st_mtime))


# The table


def page(results: list[dict[str, Any]], options: argparse.Namespace, commit: str, note: str) -> Iterator[str]:
    """The results as a page of Markdown."""
    reasons: dict[str, str] = json.loads(EXPLAINED.read_text()) if EXPLAINED.exists() else {}
    survivors = [one for one in results if one["outcome"] == "survived"]
    caught = len(results) - len(survivors)
    equivalent = sum(one["key"] in reasons for one in survivors)
    yield "# Tests of the tests"
    yield ""
    yield "One operator, number or condition of the product is changed at a time; the module's own tests must fail."
    yield "Docstrings, texts, annotations, decorators and `__repr__` are left alone. This page is written by"
    yield ""
    yield f"    python benchmarks/mutation.py --sample {options.sample} --seed {options.seed}"
    yield ""
    yield (
        f"**{caught} of {len(results)} mutants are caught: {100 * caught / len(results):.1f} %.** Of the "
        f"{len(survivors)} that survive, {equivalent} are explained below. "
        f"Commit `{commit}`."
    )
    if note:
        yield ""
        yield note
    yield ""
    yield "| module | own tests | mutants | caught | by the time limit | survived |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for module, tests in OWN.items():
        some = [one["outcome"] for one in results if one["module"] == module]
        if some:
            yield (
                f"| {module} | {tests.replace(' ', ', ')} | {len(some)} | {len(some) - some.count('survived')} "
                f"| {some.count('time')} | {some.count('survived')} |"
            )
    if survivors:
        yield ""
        yield "## Survivors"
        yield ""
        yield "| module | line | change | why it survives |"
        yield "| --- | ---: | --- | --- |"
        for one in survivors:
            change = one["key"].partition(": ")[2].replace("|", "\\|").replace("`", "'")
            yield f"| {one['module']} | {one['line']} | `{change}` | {reasons.get(one['key'], '**not explained**')} |"


def main() -> None:
    """Run the sample, or what the options say, and print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds beyond its tests' own after which a mutant counts as caught"
    )
    parser.add_argument("--only", default="", help="modules whose names begin so (a regular expression)")
    parser.add_argument("--again", action="store_true", help="run the last result's survivors alone")
    parser.add_argument("--cache", type=Path, help="keep the map of lines here, and use it if it is there")
    parser.add_argument("--page-only", action="store_true", help="write the page from the last result")
    options = parser.parse_args()

    chosen = [mutant for module in OWN for mutant in mutants(module, (ROOT / "resnet_xf" / f"{module}.py").read_text())]
    print(f"{len(chosen)} mutants in all", file=sys.stderr)
    random.Random(options.seed).shuffle(chosen)
    chosen = [mutant for mutant in chosen[: options.sample] if re.match(options.only, mutant.module)]
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results: list[dict[str, Any]] = old.get("mutants", []) if options.page_only or options.again else []
    commit = old.get("commit", "")
    if not options.page_only:
        commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
        if options.again:
            keys = {one["key"] for one in results if one["outcome"] == "survived"}
            results = [one for one in results if one["key"] not in keys]
            chosen = [mutant for mutant in chosen if mutant.key in keys]
        with tempfile.TemporaryDirectory() as name:
            measure(chosen, results, Path(name), options)
        order = {module: number for number, module in enumerate(OWN)}
        results.sort(key=lambda one: (order[one["module"]], one["line"], one["key"]))
        if not options.only:
            RESULTS.write_text(json.dumps({"commit": commit, "mutants": results}, indent=1, ensure_ascii=False) + "\n")
    lines = list(page(results, options, commit, old.get("note", "") if options.page_only else ""))
    print("\n".join(lines))
    if not options.only:
        PAGE.write_text("\n".join(lines) + "\n")


def measure(chosen: list[Mutant], results: list[dict[str, Any]], folder: Path, options: argparse.Namespace) -> None:
    """Run the mutants in a copy of the tree, and append their outcomes."""
    tree = folder / "tree"
    files = subprocess.check_output(["git", "ls-files", "-z", "--cached"], cwd=ROOT, text=True).split("\0")[:-1]
    for file in files:
        if (ROOT / file).exists():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, tree / file)
    cache = options.cache or folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    places = [str(tree), str(tree / "backends")]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    sys.path[:] = [*places, *(path for path in sys.path if not path or ROOT not in (Path(path), *Path(path).parents))]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    compileall.compile_dir(tree / "resnet_xf", quiet=1)
    warm()
    known = Map(tree, cache, {mutant.module for mutant in chosen})
    if known.failed:
        print("fail without a change, and are left out:", *known.failed, sep="\n  ", file=sys.stderr)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # what was compiled before holds for all but the changed module
    sys.dont_write_bytecode = True
    done = options.cache / "outcomes" if options.cache else None
    if done is not None and done.exists():  # go on where an earlier call was stopped
        results += json.loads(done.read_text())
        keys = {(one["key"], one["line"]) for one in results}
        chosen = [mutant for mutant in chosen if (mutant.key, mutant.line) not in keys]
    for number, mutant in enumerate(chosen, 1):
        began = time.monotonic()
        outcome = run(mutant, tree, known, options.patience)
        results.append({"module": mutant.module, "line": mutant.line, "key": mutant.key, "outcome": outcome})
        if done is not None:
            done.write_text(json.dumps(results))
        print(
            f"{number}/{len(chosen)} {outcome} {time.monotonic() - began:.1f} s  {mutant.line} {mutant.key}",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
