"""Rung 1: the trace that is expected and each side's own are the same, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose, isnan

from resnet_xf.architecture.trace import Row, observed_rows
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Outline, Subject

SAME = 1e-9
"""How far apart, relatively, two settings may be: PyTorch's momentum is 1 less MXNet's, which rounds it by 1e-16, and
what a person writes differs by far more."""


def shapes(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Names, output shapes, parameters and multiply-accumulates of every layer on one image; the norms' settings."""
    outline = subject.outline
    expected = {row.name: row for row in outline.rows}
    # Layers before the containers that hold them, so that the first difference names its cause.
    holders = {name for name in expected if outline.inner(name)}
    order = sorted(expected, key=lambda name: (name in holders, -expected[name].depth if name in holders else 0))
    for side in sides:
        observed = side.trace()
        rows = {row.name: row for row in observed_rows(observed, outline.kinds)}
        wrong = [name for name in order if rows.get(name) != expected[name]]
        extra = [name for name in rows if name not in expected]
        for name in [*extra, *wrong]:
            detail = _difference(outline.source, side.name, expected.get(name), rows.get(name), observed.error)
            return Finding(len(wrong) + len(extra), 0, detail, where=name or "the whole network")
        if list(rows) != list(expected):
            where = next(name for name, other in zip(rows, expected, strict=True) if name != other)
            return Finding(1, 0, f"{side.name} holds its layers in another order", where)
        if finding := _settings(outline, side):
            return finding
    whole = expected[""]
    return Finding(0, 0, f"{len(expected)} rows; {whole.parameters:,} parameters; {whole.macs:,} MACs")


def _settings(outline: Outline, side: Side) -> Finding | None:
    """A norm whose eps or momentum is not the expected one."""
    layers = side.trace().layers
    for name, settings in outline.settings.items():
        for setting, value in layers[name].settings.items():
            both_none = isnan(value) and isnan(settings[setting])  # a norm that keeps a plain mean
            if not both_none and not isclose(value, settings[setting], rel_tol=SAME):
                said = f"{setting} {settings[setting]:g} in {outline.source}, {value:g} in {side.name}"
                return Finding(1, 0, said, where=name)
    return None


def _difference(source: str, side: str, expected: Row | None, got: Row | None, error: str | None) -> str:
    """One line on how two rows of one name differ; ``source`` is whose the first one is."""
    if expected is None:
        return f"{side} has a layer that {source} has not"
    if got is None:
        said = f"; it said: {error}" if error else ""
        return f"{side} never ran this layer{said}"
    fields = ("output_shape", "parameters", "macs")
    parts = [
        f"{field} {getattr(expected, field)} in {source}, {getattr(got, field)} in {side}"
        for field in fields
        if getattr(expected, field) != getattr(got, field)
    ]
    return "; ".join(parts)
