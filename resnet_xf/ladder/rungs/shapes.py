"""Rung 1: every network has the expected layers, in the expected order, with the expected shapes and counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isclose, isnan

from resnet_xf.architecture.trace import ObservedTrace, Row, observed_rows
from resnet_xf.backend.observe import trace_network
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Outline, Subject

SAME = 1e-9
"""Relative tolerance of a layer's settings. PyTorch's momentum is 1 minus MXNet's, which rounds it by 1e-16; a person
who writes another value changes it far more."""


@measured("trace")
def observe(live: Live) -> ObservedTrace:
    """Run the network on one image, and return every layer's shapes and settings (eps, stride and so on)."""
    return trace_network(live.backend, live.built("float32"), live.subject.images[:1])


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare the layers of each side (network) with the expected ones: names, shapes, parameters, MACs, settings.

    The order is compared of networks from a plan. A user's own two may run independent branches in any order.
    """
    outline = subject.outline
    expected = {row.name: row for row in outline.rows}
    # Layers before their containers, so that the first difference names its cause.
    containers = {name for name in expected if outline.inner(name)}
    order = sorted(expected, key=lambda name: (name in containers, -expected[name].depth if name in containers else 0))
    for side in sides:
        observed = observe(side)
        rows = {row.name: row for row in observed_rows(observed, outline.kinds)}
        wrong = [name for name in order if rows.get(name) != expected[name]]
        extra = [name for name in rows if name not in expected]
        for name in [*extra, *wrong]:
            detail = _difference(outline.source, side.name, expected.get(name), rows.get(name), observed.error)
            return Finding(len(wrong) + len(extra), 0, detail, where=name or "the whole network")
        if outline.root is not None and list(rows) != list(expected):
            where = next(name for name, other in zip(rows, expected, strict=True) if name != other)
            return Finding(1, 0, f"{side.name} holds its layers in another order", where)
        if finding := _compare_settings(outline, side):
            return finding
    whole = expected[""]
    detail = f"{len(expected)} rows; {whole.parameters:,} parameters; {whole.macs:,} MACs"
    return Finding(0, 0, "; ".join([detail, *_unknown_settings(outline, sides)]))


def _compare_settings(outline: Outline, side: Side) -> Finding | None:
    """Return a failure at the first layer with another setting (eps, stride and so on) than expected; else None.

    The stride of a layer without weights is ignored if its output is a single pixel: it then has no effect.
    """
    for name, settings in outline.settings.items():
        layer = observe(side).layers[name]
        single = not layer.weight_shapes and layer.output_shape[2:] == (1, 1)
        for setting, value in layer.settings.items():
            expected = settings.get(setting, value)
            both_none = isnan(value) and isnan(expected)  # a norm that keeps a plain mean
            same = both_none or isclose(value, expected, rel_tol=SAME) or (single and setting.startswith("stride"))
            if not same:
                detail = f"{setting} {expected:g} in {outline.source}, {value:g} in {side.name}"
                return Finding(1, 0, detail, where=name)
    return None


def _unknown_settings(outline: Outline, sides: Sequence[Side]) -> Iterator[str]:
    """Yield a text for each side (network) that does not tell eps or momentum of some norms, for the report."""
    for side in sides:
        layers = observe(side).layers
        count = sum(not settings.keys() <= layers[name].settings.keys() for name, settings in outline.norms.items())
        if count:
            yield f"{side.name} does not give eps and momentum of {count} norms"


def _difference(source: str, side: str, expected: Row | None, observed: Row | None, error: str | None) -> str:
    """Describe in one line how the expected and the observed row of a layer differ. None: the layer is not there.

    ``source`` and ``side`` name where they come from. ``error`` is what the framework said if the network broke.
    """
    if expected is None:
        return f"{side} has a layer that {source} has not"
    if observed is None:
        return f"{side} never ran this layer" + (f"; it said: {error}" if error else "")
    fields = ("output_shape", "parameters", "macs")
    pairs = {field: (getattr(expected, field), getattr(observed, field)) for field in fields}
    return "; ".join(f"{field} {a} in {source}, {b} in {side}" for field, (a, b) in pairs.items() if a != b)


RUNG = Rung(1, "shapes", "rows that differ", lambda subject, side: observe(side), judge)
