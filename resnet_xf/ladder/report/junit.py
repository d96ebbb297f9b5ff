"""A parity report as JUnit XML, so that CI systems show rungs as tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from resnet_xf.ladder.report.report import Report, RungResult
from resnet_xf.ladder.report.wording import legal, number
from resnet_xf.support.files import atomic


def write_junit(report: Report, path: str | Path, timestamp: datetime | None = None) -> None:
    """Write a report as one test suite, in which every rung is a test.

    Args:
        report: what a parity run found.
        path: of the file; one that is there is replaced.
        timestamp: when the run began; left out if None, and then the same report gives the same bytes.

    Raises:
        OSError: if the file cannot be written; one that stood there is left as it was.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(to_junit(report, timestamp))


def to_junit(report: Report, timestamp: datetime | None = None) -> bytes:
    """The XML, in UTF-8."""
    suite_name = f"resnet_xf.parity.{report.network}"
    statuses = [rung.status for rung in report.rungs]
    counts = {
        "tests": str(len(statuses)),
        "failures": str(statuses.count("fail")),
        "errors": "0",
        "skipped": str(statuses.count("skip")),
        "time": _seconds(sum(rung.seconds for rung in report.rungs)),
    }
    root = _element(None, "testsuites", {"name": "resnet_xf.parity"} | counts)
    when = {"timestamp": timestamp.isoformat(timespec="seconds")} if timestamp else {}
    suite = _element(root, "testsuite", {"name": suite_name} | counts | when)
    properties = _element(suite, "properties")
    for name, value in _properties(report):
        _element(properties, "property", {"name": name, "value": value})
    for rung in report.rungs:
        _case(suite, suite_name, rung)
    _element(suite, "system-out", text=report.verdict())
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, suite_name: str, rung: RungResult) -> None:
    """A rung as a test."""
    name = f"{rung.number:02d} {rung.name}"  # two digits: CI systems sort tests by name
    case = _element(suite, "testcase", {"classname": suite_name, "name": name, "time": _seconds(rung.seconds)})
    measured = f"{rung.metric} {number(rung.value)}, bound {number(rung.bound)}"
    if rung.status == "skip":
        _element(case, "skipped", {"message": rung.detail or "a rung below it failed"})
        return
    if rung.status == "fail":
        message = f"{rung.where}: {rung.detail}" if rung.where else rung.detail
        place = [f"where: {rung.where}"] if rung.where else []
        text = "\n".join([rung.detail, *place, f"found: {measured}"])
        _element(case, "failure", {"message": f"{message} ({measured})", "type": "parity"}, text)
        return
    _element(case, "system-out", text=f"{rung.detail} ({measured})" if rung.detail else measured)


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    """What a result depends on, by dotted names."""
    yield "network", report.network
    yield "level", report.level
    yield "images", report.images
    yield "input_shape", "×".join(map(str, report.input_shape))
    yield "weights", report.weights
    if report.command:
        yield "command", report.command
    many = {"backend": report.backends, "device": report.devices, "environment": report.environment}
    for kind, values in many.items():
        for name, value in values.items():
            yield f"{kind}.{name}", value


def _element(
    parent: ET.Element | None, tag: str, attributes: Mapping[str, str] | None = None, text: str | None = None
) -> ET.Element:
    """A new element, whose every character is one that XML may hold."""
    element = ET.Element(tag, {name: legal(value) for name, value in (attributes or {}).items()})
    element.text = None if text is None else legal(text)
    if parent is not None:
        parent.append(element)
    return element


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
