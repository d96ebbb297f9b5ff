"""A parity report as JUnit XML."""

import xml.etree.ElementTree as ET

import pytest

from helpers.reports import HOSTILE, failing, holding, hostile
from resnet_xf.ladder.report.junit import to_junit, write_junit


def test_every_rung_is_a_test(tmp_path) -> None:
    write_junit(holding(), tmp_path / "parity.xml")
    text = (tmp_path / "parity.xml").read_bytes()
    assert text.startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")
    suite = ET.fromstring(text).find("testsuite")
    assert suite.attrib == {
        "name": "resnet_xf.parity.tiny",
        "tests": "7",
        "failures": "0",
        "errors": "0",
        "skipped": "0",
        "time": "1.750",
        "timestamp": "2026-01-02T03:04:05+00:00",
    }
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases][:4] == [
        "01 shapes",
        "02 weights",
        "03 determinism",
        "04 forward float64",
    ]
    assert {case.get("classname") for case in cases} == {"resnet_xf.parity.tiny"}
    assert {case.get("time") for case in cases} == {"0.250"}
    assert cases[3].findtext("system-out") == "as it should be (relative error 1e-16, bound 1e-14)"
    told = {one.get("name"): one.get("value") for one in suite.iterfind("properties/property")}
    assert told["backend.mxnet"] == "1.9.1"
    assert told["device.torch"] == "cuda"
    assert told["environment.python"] == "3.11.7"
    assert told["environment.resnet_xf"] == "0.1.0"
    assert told["weights_digest"] == "0123456789abcdef0123456789abcdef"
    assert told["command"] == "resnet-xf parity tiny.toml --level full"
    assert suite.findtext("system-out") == holding().verdict()


def test_a_failure_says_where_and_what_is_above_it_is_skipped() -> None:
    suite = ET.fromstring(to_junit(failing())).find("testsuite")
    assert (suite.get("failures"), suite.get("skipped"), suite.get("tests")) == ("1", "1", "6")
    name = failing().failure.where
    failure = suite.find("testcase[@name='05 layers']/failure")
    assert failure.get("message") == f"{name}: it is not finite (relative error ∞, bound 1e-13)"
    assert failure.text == f"it is not finite\nwhere: {name}\nfound: relative error ∞, bound 1e-13"
    assert suite.find("testcase[@name='06 lock-step']/skipped") is not None
    assert [case.find("failure") is None for case in suite.findall("testcase")].count(False) == 1


def test_it_tells_when_the_run_began() -> None:
    assert to_junit(holding()) == to_junit(holding())
    assert b' timestamp="2026-01-02T03:04:05+00:00"' in to_junit(holding())
    assert b"timestamp" not in to_junit(holding(created=None))


def test_any_text_makes_sound_xml() -> None:
    suite = ET.fromstring(to_junit(hostile())).find("testsuite")
    for illegal in "\x00\x1b\ud800\uffff":
        assert illegal in HOSTILE
    assert suite.get("name") == f"resnet_xf.parity.{HOSTILE}".translate(
        dict.fromkeys(map(ord, "\x00\x1b\ud800\uffff"), "\ufffd")
    )


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        write_junit(holding(), tmp_path / "nowhere" / "parity.xml")
    assert not list(tmp_path.iterdir())
