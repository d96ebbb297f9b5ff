"""A parity report as JUnit XML, so that CI systems show rungs as tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from resnet_xf.ladder.report.report import Report, RungResult
from resnet_xf.ladder.report.wording import legal, number
from resnet_xf.support.files import atomic


def write_junit(report: Report, path: str | Path) -> None:
    """Write a report as one test suite with a test for each rung. The same report gives the same bytes.

    Raises:
        OSError: if the file cannot be written; an existing file is then left as it was.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(to_junit(report))


def to_junit(report: Report) -> bytes:
    """Return a report as JUnit XML, in UTF-8."""
    name = f"resnet_xf.parity.{report.network}"
    statuses = [rung.status for rung in report.rungs]
    counts = {
        "tests": str(len(statuses)),
        "failures": str(statuses.count("fail")),
        "errors": str(statuses.count("inconclusive")),
        "skipped": str(statuses.count("skip")),
        "time": f"{sum(rung.seconds for rung in report.rungs):.3f}",
    }
    began = {"timestamp": report.created.isoformat(timespec="seconds")} if report.created else {}
    root = ET.Element("testsuites", {"name": "resnet_xf.parity"} | counts)
    suite = _add(root, "testsuite", {"name": name} | counts | began)
    properties = _add(suite, "properties")
    for key, value in _properties(report):
        _add(properties, "property", {"name": key, "value": value})
    for rung in report.rungs:
        # The number has two digits because CI systems sort tests by name.
        attributes = {"classname": name, "name": f"{rung.number:02d} {rung.name}", "time": f"{rung.seconds:.3f}"}
        _add_outcome(_add(suite, "testcase", attributes), rung)
    _add(suite, "system-out", text=report.verdict())
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_outcome(case: ET.Element, rung: RungResult) -> None:
    """Add to a ``testcase`` element the result of its rung: skipped, error (inconclusive), failure, or output."""
    measured = f"{rung.metric} {number(rung.value)}, bound {number(rung.bound)}"
    if rung.status == "skip":
        _add(case, "skipped", {"message": rung.detail or "a rung below it failed"})
    elif rung.status == "inconclusive":
        _add(case, "error", {"message": f"{rung.detail} ({measured})", "type": "inconclusive"})
    elif rung.status == "fail":
        place, where = (f"{rung.where}: ", f"where: {rung.where}\n") if rung.where else ("", "")
        message = f"{place}{rung.detail} ({measured})"
        _add(case, "failure", {"message": message, "type": "parity"}, f"{rung.detail}\n{where}found: {measured}")
    else:
        _add(case, "system-out", text=f"{rung.detail} ({measured})" if rung.detail else measured)


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    """Yield names and values of the report's properties: network, weights, versions, devices and so on."""
    for name in ("network", "level", "images", "weights", "weights_digest", "command"):
        if value := getattr(report, name):
            yield name, value
    yield "input_shape", "×".join(map(str, report.input_shape))
    many = {"backend": report.backends, "device": report.devices, "environment": report.environment}
    for kind, values in many.items():
        yield from ((f"{kind}.{name}", value) for name, value in values.items())


def _add(parent: ET.Element, tag: str, attributes: Mapping[str, str] | None = None, text: str = "") -> ET.Element:
    """Add an element with a tag, attributes and text to ``parent``; return it. Illegal characters become U+FFFD."""
    element = ET.SubElement(parent, tag, {name: legal(value) for name, value in (attributes or {}).items()})
    element.text = legal(text) or None
    return element
