"""Rung 1: the trace by arithmetic and each backend's own are the same, row by row."""

from __future__ import annotations

from math import isclose

from resnet_xf.nodes import Norm, children, walk
from resnet_xf.parity.subject import Finding, Subject
from resnet_xf.trace import Row, observed_rows, trace


def shapes(subject: Subject) -> Finding:
    """Names, output shapes, parameters and multiply-accumulates of every layer on one image; the norms' settings."""
    image = subject.images[:1]
    expected = {row.name: row for row in trace(subject.plan, image.shape)}
    kinds = {name: row.kind for name, row in expected.items()}
    # Layers before the containers that hold them, so that the first difference names its cause.
    holders = {name for name, node in walk(subject.plan.root) if children(node)}
    order = sorted(expected, key=lambda name: (name in holders, -expected[name].depth if name in holders else 0))
    for backend in subject.backends:
        observed = backend.trace(backend.build(subject.plan.root), image)
        rows = {row.name: row for row in observed_rows(observed, kinds)}
        wrong = [name for name in order if rows.get(name) != expected[name]]
        extra = [name for name in rows if name not in expected]
        for name in [*extra, *wrong]:
            detail = _difference(backend.name, expected.get(name), rows.get(name), observed.error)
            return Finding(len(wrong) + len(extra), 0, detail, where=name or "the whole network")
        if list(rows) != list(expected):
            where = next(name for name, other in zip(rows, expected, strict=True) if name != other)
            return Finding(1, 0, f"{backend.name} holds its layers in another order", where)
        for name, node in walk(subject.plan.root):
            if isinstance(node, Norm):
                for setting, value in observed.layers[name].settings.items():
                    if not isclose(value, getattr(node, setting), rel_tol=1e-9):
                        said = f"{setting} {getattr(node, setting):g} in the plan, {value:g} in {backend.name}"
                        return Finding(1, 0, said, where=name)
    whole = expected[""]
    return Finding(0, 0, f"{len(expected)} rows; {whole.parameters:,} parameters; {whole.macs:,} MACs")


def _difference(backend: str, expected: Row | None, got: Row | None, error: str | None) -> str:
    """One line on how two rows of one name differ."""
    if expected is None:
        return f"{backend} has a layer that the plan has not"
    if got is None:
        said = f"; it said: {error}" if error else ""
        return f"{backend} never ran this layer{said}"
    fields = ("output_shape", "parameters", "macs")
    parts = [
        f"{field} {getattr(expected, field)} in the plan, {getattr(got, field)} in {backend}"
        for field in fields
        if getattr(expected, field) != getattr(got, field)
    ]
    return "; ".join(parts)
