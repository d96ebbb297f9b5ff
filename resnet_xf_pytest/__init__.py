"""The pytest plugin of resnet_xf: a fixture ``assert_parity``, a marker ``parity``, and reports of each comparison.

It is a package of its own because pytest imports it in every run of everybody who has resnet_xf installed. Importing it
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

PROVEN, PARTLY, DIFFERS = "parity proven", "parity in part", "parity differs"
UNDECIDED, NOT_COMPARED = "parity inconclusive", "parity not compared"
"""Names of a test's properties: the outcomes of a comparison."""

TABLES = pytest.StashKey[list[tuple[str, str]]]()
"""Titles and tables of a test's comparisons, for the report of the test's current phase."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command line and of the settings file."""
    group = parser.getgroup("resnet-xf", "proof that two neural networks are the same (resnet_xf)")
    level = "the level of assert_parity where the test does not name one: quick, standard, full"
    group.addoption("--parity-level", choices=LEVELS, help=level)
    group.addoption("--parity-report", metavar="DIR", help="write each comparison there, as JSON, HTML and JUnit XML")
    strict = "fail tests whose backends are not installed, which are skipped otherwise"
    group.addoption("--parity-strict", action="store_true", help=strict)
    parser.addini("parity_level", f"{level} (standard)", default="standard")
    parser.addini("parity_strict", strict, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and check the settings."""
    config.addinivalue_line(
        "markers",
        "parity(level=..., image_size=..., **options): default options of the fixture assert_parity, as "
        "resnet_xf.parity takes them",
    )
    if (level := config.getini("parity_level")) not in LEVELS:
        raise pytest.UsageError(f"parity_level: no level is called {level!r}; choose one of {', '.join(LEVELS)}")
    if config.getoption("--parity-report") and importlib.util.find_spec("jinja2") is None:
        raise pytest.UsageError("--parity-report: needs jinja2; run: pip install 'resnet-xf[report]'")


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """``assert_parity(spec, backends=..., **options)`` fails unless all backends build the same network.

    It takes the arguments of :func:`resnet_xf.parity`, including a pair of your own networks, and returns the report.
    Options that are not given come from the nearest marker ``parity``. The level comes from ``--parity-level`` if the
    markers do not name one, else from ``parity_level`` in the settings file.

    If a backend is not installed, the test is skipped with the line that installs it, so a project's tests pass on
    machines for which a framework has no wheel. ``--parity-strict`` or ``parity_strict = true`` makes that a failure;
    use it on a CI server that has both frameworks.

    Example::

        def test_same(assert_parity):
            assert_parity("resnet18", level="quick")
    """
    item, config = request.node, request.config
    defaults: dict[str, Any] = {"level": config.getoption("--parity-level") or config.getini("parity_level")}
    for marker in reversed(list(item.iter_markers("parity"))):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: parity takes named options alone, as parity(level='quick')")
        defaults |= marker.kwargs
    strict = config.getoption("--parity-strict") or config.getini("parity_strict")
    folder = config.getoption("--parity-report")
    done = 0

    def compare(spec: Any, backends: str | Sequence[Any] | None = None, **options: Any) -> Report:
        """Compare the networks, and record the outcome for pytest."""
        nonlocal done
        __tracebackhide__ = True
        from resnet_xf import parity
        from resnet_xf.errors import ResNetXFError

        arguments = defaults | options | ({} if backends is None else {"backends": backends})
        if missing := "" if strict or isinstance(spec, tuple) else _missing(arguments.get("backends")):
            item.user_properties.append((NOT_COMPARED, missing))
            pytest.skip(missing)
        try:
            report = parity(spec, **arguments)
        except ResNetXFError as error:
            raise error.with_traceback(None)  # noqa: B904 - the same error without the library's frames
        done += 1
        complete = all(rung.status == "pass" for rung in report.rungs)
        result = PROVEN if complete else PARTLY if report.holds else DIFFERS if report.failure else UNDECIDED
        item.user_properties.append((result, report.verdict()))
        item.stash.setdefault(TABLES, []).append((f"parity of {report.network}", table(report)))
        if folder:
            write(report, config.invocation_params.dir / folder, item.nodeid, done)
        if not report.holds:
            raise AssertionError(report.verdict())
        return report

    return compare


def _missing(backends: str | Sequence[Any] | None) -> str:
    """Return a line on the first backend that is not installed and how to get it; empty if all are."""
    from resnet_xf.backend.registry import ALIASES, backends_to_compare, how_to_install, is_installed

    listed = (
        backends_to_compare() if backends is None else backends.split(",") if isinstance(backends, str) else backends
    )
    for text in listed:
        if isinstance(text, str):
            name = ALIASES.get(text.strip().lower(), text.strip().lower())
            if not is_installed(name):
                return f"backend {name!r} is not installed; run: {how_to_install(name)}"
    return ""


def table(report: Report) -> str:
    """Return the ladder as text, a rung a line."""
    rows = [("", "rung", "", "found", "bound", "where, what")]
    for rung in report.rungs:
        value, bound = ("" if number is None else f"{number:.3g}" for number in (rung.value, rung.bound))
        what = ": ".join(filter(None, (rung.where, rung.detail)))
        rows.append((str(rung.number), rung.name, rung.status, value, bound, what))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows]
    return "\n".join([*lines, report.verdict()])


def write(report: Report, folder: Path, nodeid: str, number: int) -> None:
    """Write a report in every form.

    A file's name is the test's, cut and without special characters, and a digest that tells apart tests and comparisons
    whose names are then equal.
    """
    from resnet_xf.ladder.report.html import write_html
    from resnet_xf.ladder.report.junit import write_junit
    from resnet_xf.support.files import atomic

    digest = hashlib.sha256(f"{nodeid} {number}".encode()).hexdigest()[:8]
    stem = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', nodeid).strip('-.')[-100:]}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / f"{stem}.json") as temporary:
        temporary.write_text(report.to_json(), encoding="utf-8")
    write_html(report, folder / f"{stem}.html")
    write_junit(report, folder / f"{stem}.xml")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ladder's tables to the test's report, which pytest prints if the test fails, and with ``-rP``."""
    report = yield
    tables: list[tuple[str, str]] = item.stash.get(TABLES, [])
    report.sections.extend(tables)
    item.stash[TABLES] = []
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line on all comparisons, also on those of pytest-xdist's workers."""
    ended = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", "") == "teardown"]
    counts = Counter(name for report in ended for name, _ in report.user_properties)
    parts = [f"{counts[PROVEN]} {'network' if counts[PROVEN] == 1 else 'networks'} proven"]
    parts += [f"{counts[PARTLY]} in part"] if counts[PARTLY] else []
    parts += [f"{counts[DIFFERS]} {'differs' if counts[DIFFERS] == 1 else 'differ'}"] if counts[DIFFERS] else []
    parts += [f"{counts[UNDECIDED]} inconclusive"] if counts[UNDECIDED] else []
    parts += [f"{counts[NOT_COMPARED]} not compared"] if counts[NOT_COMPARED] else []
    if any(counts[name] for name in (PROVEN, PARTLY, DIFFERS, UNDECIDED, NOT_COMPARED)):
        failed, in_part = counts[DIFFERS] + counts[UNDECIDED], counts[NOT_COMPARED] + counts[PARTLY]
        colour = "red" if failed else "yellow" if in_part else "green"
        terminalreporter.write_line(f"parity: {', '.join(parts)}", **{colour: True})
