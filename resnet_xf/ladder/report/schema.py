"""The JSON schema of a parity report. ``python -m resnet_xf.ladder.report.schema`` writes it to ``docs/``."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.architecture.spec import ExplicitSpec, ResNetSpec, Spec
from resnet_xf.ladder.report.report import Report
from resnet_xf.support.files import atomic

PLACE = Path("docs") / "parity.schema.json"

MEASURED = ("LayerError", "Curves")
"""The types in a report whose numbers may be infinite or NaN, which JSON can only write as ``null``.

The numbers of :class:`RungResult` may be None in any case; those of :class:`Equivalence` are always finite.
"""

WRITTEN_WHOLE = ("Report", "RungResult", "LayerError", "Curves", "Equivalence")
"""The types that are written with all their fields. A spec leaves out fields that have their default values."""


def report_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) of what :meth:`resnet_xf.ladder.report.report.Report.to_json` returns.

    Unknown fields are refused: a report with more fields has another ``version``.
    """
    (_, *specs), definitions = msgspec.json.schema_components(
        (Report, ResNetSpec, ExplicitSpec), schema_hook=lambda kind: {"$ref": f"#/$defs/{kind.__name__}"}
    )
    definitions |= {Spec.__name__: {"description": Spec.__doc__, "anyOf": specs}}
    for name, one in definitions.items():
        one["description"] = inspect.cleandoc(one.get("description", ""))
        if "properties" in one:
            one["additionalProperties"] = False
        if name in WRITTEN_WHOLE:
            one["required"] = list(one["properties"])
        if name in MEASURED:
            one["properties"] = _nullable(one["properties"])
    report: dict[str, Any] = definitions.pop("Report")
    beside = {
        "holds": {
            "type": "boolean",
            "description": "Whether no rung failed or is inconclusive; one that was skipped proves nothing.",
        },
        "verdict": {
            "type": "string",
            "description": "One line: that the networks are the same, or the rung and layer at which they differ.",
        },
    }
    report["title"] = "resnet_xf parity report"
    report["properties"] = beside | report["properties"]
    report["required"] = [*beside, *report["required"]]
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dialect | report | {"$defs": definitions}))
    return plain


def _nullable(schema: Any) -> Any:
    """Return the schema with ``null`` allowed for every number."""
    if isinstance(schema, list):
        return [_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _nullable(one) for key, one in schema.items()}
    return inner | {"type": ["number", "null"]} if schema.get("type") == "number" else inner


def write_schema(path: str | Path = PLACE) -> None:
    """Write the schema, indented.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_schema(*sys.argv[1:2])
