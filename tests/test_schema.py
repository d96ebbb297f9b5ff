"""The JSON schema of parity reports."""

import copy
import json
from pathlib import Path

import pytest

from helpers.reports import failing, holding, hostile
from helpers.runs import TINY
from resnet_xf import get_backend, parity
from resnet_xf.ladder.report.report import Report
from resnet_xf.ladder.report.schema import PLACE, report_schema, write_schema

jsonschema = pytest.importorskip("jsonschema")


def complaints(document: object) -> list[str]:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def strict(text: str) -> dict:
    """JSON, in which NaN and Infinity are no numbers."""
    return json.loads(text, parse_constant=pytest.fail)


def test_the_committed_schema_is_the_one_that_the_types_give(tmp_path) -> None:
    write_schema(tmp_path / "schema.json")
    committed = Path(__file__).parent.parent / PLACE
    assert committed.read_text() == (tmp_path / "schema.json").read_text(), (
        "run python -m resnet_xf.ladder.report.schema"
    )
    assert json.loads(committed.read_text()) == report_schema()


def test_it_is_of_the_dialect_that_it_names_and_describes_what_it_holds() -> None:
    schema = report_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"].startswith(
        "The report of a parity run: what was compared, and the result of each rung.\n\n"
        "Attributes:\n    network: the network's name."
    )
    assert set(schema["required"]) == {"holds", "verdict", *Report.__struct_fields__}
    assert all(one["description"] and one.get("additionalProperties") is not True for one in schema["$defs"].values())


@pytest.mark.parametrize("make", [holding, failing, hostile])
def test_reports_by_hand_are_valid(make) -> None:
    report = make()
    if make is hostile:  # a lone surrogate is no text in JSON; all else is
        report = Report(
            **{name: getattr(holding(), name) for name in Report.__struct_fields__} | {"network": "\x00\x1b<\uffff"}
        )
    assert complaints(strict(report.to_json())) == []


def test_what_is_infinite_or_no_number_is_null() -> None:
    data = strict(failing().to_json())
    layer = data["layers"][7]
    assert [layer[key] for key in ("inherited", "own", "own_bound")] == [None] * 3
    assert layer["float32"] == {"torch": None}
    assert data["curves"]["losses"] == {"torch": [2.0, None], "mxnet": [2.0, None]}
    assert data["rungs"][4]["value"] is None


def test_real_reports_are_valid() -> None:
    report = parity(TINY)
    assert report.layers
    assert complaints(strict(report.to_json())) == []

    class Broken(type(get_backend("mxnet"))):
        def build(self, *arguments: object) -> None:
            raise RuntimeError("out of luck")

    data = strict(parity(TINY, ["torch", Broken()], level="quick").to_json())
    assert data["holds"] is False
    assert data["rungs"][0]["value"] is None
    assert {rung["status"] for rung in data["rungs"]} == {"fail", "skip"}
    assert complaints(data) == []


def changed(path: tuple[str | int, ...], value: object) -> dict:
    data = copy.deepcopy(strict(holding().to_json()))
    *way, last = path
    inner = data
    for step in way:
        inner = inner[step]
    inner[last] = value
    return data


@pytest.mark.parametrize(
    "path, value, complaint",
    [
        (("version",), 3, "$.version"),
        (("rungs", 0, "status"), "passed", "$.rungs[0].status"),
        (("rungs", 0, "seconds"), None, "$.rungs[0].seconds"),
        (("layers", 1, "float32", "torch"), "1e-7", "$.layers[1].float32.torch"),
        (("curves", "losses", "torch"), 1.0, "$.curves"),
        (("accuracy", "margin"), None, "$.accuracy"),
        (("holds",), "yes", "$.holds"),
        (("spec", "stages"), [], "$.spec"),
        (("rungs", 0, "surprise"), 1, "$.rungs[0]"),
        (("surprise",), 1, "$: Additional properties"),
    ],
)
def test_what_is_no_report_is_refused(path, value, complaint) -> None:
    found = complaints(changed(path, value))
    assert len(found) == 1
    assert found[0].startswith(complaint)


@pytest.mark.parametrize("field", ["holds", "verdict", "rungs", "layers", "version", "curves"])
def test_what_lacks_a_field_is_refused(field) -> None:
    data = strict(holding().to_json())
    del data[field]
    assert complaints(data) == [f"$: {field!r} is a required property"]
