"""A parity report as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from resnet_xf.ladder.report.charts import draw
from resnet_xf.ladder.report.report import LayerError, Report
from resnet_xf.ladder.report.wording import beyond, legal, number
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

TEMPLATE = "report.html.j2"

LEVELS = {
    "quick": "quick: inference",
    "standard": "standard: inference, and training step by step",
    "full": "full: inference, training step by step, learning curves and accuracies",
}

MARKS = {"pass": "✓", "fail": "✗", "skip": "–"}
"""What is said by colour is said by these and by a word too."""


def write_html(report: Report, path: str | Path) -> None:
    """Write a report as a page; the same report gives the same bytes.

    Raises:
        BackendError: if Jinja or Matplotlib is not installed.
        OSError: if the file cannot be written; one that stood there is left as it was.
    """
    page = to_html(report).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(page)


def to_html(report: Report) -> str:
    """The page.

    Raises:
        BackendError: if Jinja or Matplotlib is not installed.
    """
    jinja = optional("jinja2", "pages are made by Jinja")
    markup = optional("markupsafe", "pages are made by Jinja").Markup
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
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    charts = {name: markup(svg) for name, svg in draw(report).items()}
    return str(template.render(report=report, charts=charts, **_told(report)))


def _told(report: Report) -> dict[str, Any]:
    """What the template shows and a report does not hold as it is."""
    passed = sum(rung.status == "pass" for rung in report.rungs)
    headline = "The same network" if report.holds else "Not the same network"
    if report.failure:
        headline = f"Parity fails on rung {report.failure.number}: {report.failure.name}"
    elif report.holds:
        headline = "Parity holds"
    return {
        "headline": headline,
        "passed": passed,
        "level": LEVELS[report.level],
        "marks": MARKS,
        "shape": " × ".join(map(str, report.input_shape)),
        "seconds": sum(rung.seconds for rung in report.rungs),
        "layer_sides": list(dict.fromkeys(side for layer in report.layers for side in layer.float32)),
        "wrong_layers": [layer.name for layer in report.layers if _is_wrong(layer)],
        "spec": report.spec.to_toml() if report.spec else "",
    }


def _is_wrong(layer: LayerError) -> bool:
    """Whether any of a layer's errors is beyond its bound."""
    singles = [(error, layer.float32_bound) for error in layer.float32.values()]
    pairs = [(layer.inherited, layer.inherited_bound), (layer.own, layer.own_bound), *singles]
    return any(beyond(error, bound) for error, bound in pairs)
