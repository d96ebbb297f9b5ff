"""The pytest plugin of resnet_xf: a fixture ``assert_parity``, a marker ``parity``, and reports of what was compared.

A package of its own, since pytest imports it in every run of everybody who has resnet_xf installed: importing it
imports neither resnet_xf nor NumPy; the fixture does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from resnet_xf import Report

LEVELS = ("quick", "standard", "full")

PROVEN, DIFFERS, LEFT = "parity proven", "parity differs", "parity not compared"
"""What a test's properties are called, by what became of a comparison."""

SECTIONS = pytest.StashKey[list[tuple[str, str]]]()
"""Tables of what a test has compared, for the report of the phase that it is in."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the command line and of the settings file."""
    group = parser.getgroup("resnet-xf", "proof that two neural networks are the same (resnet_xf)")
    level = "how far up the ladder the fixture assert_parity climbs, where the test does not say: quick, standard, full"
    group.addoption("--parity-level", choices=LEVELS, help=level)
    group.addoption("--parity-report", metavar="DIR", help="write every comparison there, as JSON, HTML and JUnit XML")
    strict = "fail tests whose backends are not installed, which are skipped otherwise"
    group.addoption("--parity-strict", action="store_true", help=strict)
    parser.addini("parity_level", f"{level} (standard)", default="standard")
    parser.addini("parity_strict", strict, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse settings that cannot be met."""
    config.addinivalue_line(
        "markers",
        "parity(level=..., image_size=..., **options): defaults for the fixture assert_parity, as resnet_xf.parity "
        "takes them",
    )
    if (level := config.getini("parity_level")) not in LEVELS:
        raise pytest.UsageError(f"parity_level: no level is called {level!r}; choose one of {', '.join(LEVELS)}")
    lacking = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if config.getoption("--parity-report") and lacking:
        raise pytest.UsageError(f"--parity-report: needs {' and '.join(lacking)}; run: pip install 'resnet-xf[report]'")


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """``assert_parity(spec, backends=..., **options)``: fails unless all backends build one and the same network.

    It takes what :func:`resnet_xf.parity` takes, a pair of your own networks too, and returns the report. Options that
    are not given come from the marker ``parity``, the nearest first. The level, if that does not say either, is that of
    ``--parity-level``, or of ``parity_level`` in the settings file.

    Where a backend is not installed, the test is skipped with the line that installs it, so that the tests of a project
    pass on machines for which a framework has no wheel. Where that must not go unnoticed, as on a CI server that has
    both, ``--parity-strict`` or ``parity_strict = true`` makes it a failure.
    """
    item, config = request.node, request.config
    options: dict[str, Any] = {"level": config.getoption("--parity-level") or config.getini("parity_level")}
    for marker in reversed(list(item.iter_markers("parity"))):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: parity takes named options alone, as parity(level='quick')")
        options |= marker.kwargs
    strict = config.getoption("--parity-strict") or config.getini("parity_strict")
    folder = config.getoption("--parity-report")
    path = folder and config.invocation_params.dir / folder
    return _Asserter(item, options, strict, path)


class _Asserter:
    """What the fixture gives to a test."""

    def __init__(self, item: pytest.Item, defaults: dict[str, Any], strict: bool, folder: Path | None) -> None:
        self.item, self.defaults, self.strict, self.folder = item, defaults, strict, folder
        self.done = 0

    def __call__(self, spec: Any, backends: str | Sequence[Any] | None = None, **options: Any) -> Report:
        """Compare, and tell pytest what came of it."""
        __tracebackhide__ = True
        from resnet_xf import parity
        from resnet_xf.errors import ResNetXFError

        given = self.defaults | options | ({} if backends is None else {"backends": backends})
        if missing := [] if self.strict or isinstance(spec, tuple) else _missing(given.get("backends")):
            self._note(LEFT, missing[0])
            pytest.skip(missing[0])
        try:
            report = parity(spec, **given)
        except ResNetXFError as error:
            raise error.with_traceback(None)  # noqa: B904 - it is the same error, without the library's frames
        self._note(PROVEN if report.holds else DIFFERS, report.verdict())
        self.item.stash.setdefault(SECTIONS, []).append((f"parity of {report.network}", table(report)))
        self.done += 1
        if self.folder is not None:
            write(report, self.folder, self.item.nodeid, self.done)
        if not report.holds:
            raise AssertionError(report.verdict())
        return report

    def _note(self, what: str, text: str) -> None:
        self.item.user_properties.append((what, text))


def _missing(backends: str | Sequence[Any] | None) -> list[str]:
    """A line on each backend that is not installed, and how to get it."""
    from resnet_xf.backend.registry import ALIASES, how_to_install, is_installed

    named = ("torch", "mxnet") if backends is None else backends.split(",") if isinstance(backends, str) else backends
    texts = [one.strip().lower() for one in named if isinstance(one, str)]
    names = [ALIASES.get(name, name) for name in texts]
    return [
        f"backend {name!r} is not installed; run: {how_to_install(name)}" for name in names if not is_installed(name)
    ]


def table(report: Report) -> str:
    """The ladder as text, a rung a line."""
    rows = [("", "rung", "", "found", "bound", "where, what")]
    for rung in report.rungs:
        value, bound = ("" if number is None else f"{number:.3g}" for number in (rung.value, rung.bound))
        what = ": ".join(filter(None, (rung.where, rung.detail)))
        rows.append((str(rung.number), rung.name, rung.status, value, bound, what))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows]
    return "\n".join([*lines, report.verdict()])


def write(report: Report, folder: Path, nodeid: str, number: int) -> None:
    """Write a report in every form; the files bear the test's name, and a digest of it, since it is cut and cleaned."""
    from resnet_xf.ladder.report.html import write_html
    from resnet_xf.ladder.report.junit import write_junit

    digest = hashlib.sha256(f"{nodeid} {number}".encode()).hexdigest()[:8]
    stem = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', nodeid).strip('-.')[-100:]}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(report.to_json(), encoding="utf-8")
    write_html(report, folder / f"{stem}.html")
    write_junit(report, folder / f"{stem}.xml")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the ladder's table into the test's report, which shows it where the test fails, and with ``-rP``."""
    report = yield
    tables: list[tuple[str, str]] = item.stash.get(SECTIONS, [])
    report.sections.extend(tables)
    item.stash[SECTIONS] = []
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line on all comparisons, those of xdist's workers too."""
    ended = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", "") == "teardown"]
    counts = Counter(name for report in ended for name, _ in report.user_properties)
    networks = "network" if counts[PROVEN] == 1 else "networks"
    parts = [f"{counts[PROVEN]} {networks} proven"]
    parts += [f"{counts[DIFFERS]} {'differs' if counts[DIFFERS] == 1 else 'differ'}"] if counts[DIFFERS] else []
    parts += [f"{counts[LEFT]} not compared"] if counts[LEFT] else []
    if counts[PROVEN] + counts[DIFFERS] + counts[LEFT]:
        colour = "red" if counts[DIFFERS] else "yellow" if counts[LEFT] else "green"
        terminalreporter.write_line(f"parity: {', '.join(parts)}", **{colour: True})
