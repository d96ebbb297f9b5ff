"""A parity report as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from resnet_xf.ladder.report.charts import draw, room
from resnet_xf.ladder.report.panel import HEIGHT, WIDTH
from resnet_xf.ladder.report.report import Report
from resnet_xf.ladder.report.wording import beyond, legal, number, rung_in_words
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

LEVELS = {
    "quick": "quick: inference",
    "standard": "standard: inference, and training step by step",
    "full": "full: inference, training step by step, learning curves and accuracies",
}

MARKS = {"pass": "✓", "fail": "✗", "skip": "–", "inconclusive": "?"}
"""The mark of each status. With it and a word, colour is never the only sign of a result."""


def write_html(report: Report, path: str | Path) -> None:
    """Write a report as an HTML page. The same report gives the same bytes.

    Raises:
        MissingExtraError: if Jinja is not installed.
        OSError: if the file cannot be written; an existing file is then left as it was.
    """
    page = to_html(report).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(page)


def to_html(report: Report) -> str:
    """Return a report as an HTML page.

    Raises:
        MissingExtraError: if Jinja is not installed.
    """
    jinja = optional("jinja2", "pages are made by Jinja")
    environment = jinja.Environment(
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: legal(value) if type(value) is str else value,
    )
    environment.filters["number"] = number
    environment.tests["beyond"] = beyond
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    return str(template.render(report=report, **_derived(report)))


def _derived(report: Report) -> dict[str, Any]:
    """Return the variables of the page's template besides ``report``, by name."""
    headline = "Parity holds" if report.holds else "Parity is undecided"
    if report.failure:
        headline = f"Parity fails on rung {report.failure.number}: {report.failure.name}"
    return {
        "headline": headline,
        "passed": sum(rung.status == "pass" for rung in report.rungs),
        "level": LEVELS[report.level],
        "marks": MARKS,
        "shape": " × ".join(map(str, report.input_shape)),
        "seconds": sum(rung.seconds for rung in report.rungs),
        "created": report.created.strftime("%Y-%m-%d %H:%M UTC") if report.created else "",
        "layer_sides": list(dict.fromkeys(side for layer in report.layers for side in layer.float32)),
        "wrong_layers": [layer.name for layer in report.layers if layer.excess()],
        "spec": report.spec.to_toml() if report.spec else "",
        "room": room(report.rungs),
        "charts": draw(report),
        "box": (WIDTH, HEIGHT),
        "explain": rung_in_words,
    }
