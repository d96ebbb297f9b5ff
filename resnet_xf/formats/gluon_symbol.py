"""The batch norms in the ``-symbol.json`` of an exported network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.errors import WeightsError
from resnet_xf.support.files import read_bytes, reading

MOST_BYTES = 2**24
"""The largest symbol; ResNet-152's has 500 kB."""


class NormAttributes(msgspec.Struct, frozen=True):
    """The attributes of a BatchNorm; MXNet's defaults for those that the file does not give."""

    eps: float = 1e-3
    momentum: float = 0.9
    fix_gamma: bool = True


class _Node(msgspec.Struct):
    op: str
    name: str
    inputs: list[list[int]] = []
    attrs: dict[str, Any] = {}
    attr: dict[str, Any] = {}
    param: dict[str, Any] = {}

    def attributes(self) -> dict[str, Any]:
        """The attributes, which MXNet's versions write under three names."""
        return self.attrs or self.attr or self.param


class _Symbol(msgspec.Struct):
    nodes: list[_Node]


def symbol_beside(params: str | Path) -> Path | None:
    """The path of ``net-symbol.json`` beside ``net-0000.params``, or None if there is none."""
    params = Path(params)
    path = params.with_name(re.sub(r"(-\d{4})?\.params$", "-symbol.json", params.name))
    return path if path.is_file() and path != params else None


def read_symbol(path: str | Path) -> tuple[dict[str, NormAttributes], tuple[str, ...]]:
    """The attributes of every BatchNorm by the name of its gamma, and the names of all variables.

    Raises:
        WeightsError: if the file cannot be read or is not a symbol.
    """
    with reading(path, WeightsError, "a symbol of MXNet"):
        nodes = msgspec.json.decode(read_bytes(path, MOST_BYTES), type=_Symbol).nodes
        norms = [node for node in nodes if node.op in ("BatchNorm", "BatchNorm_v1")]
        variables = tuple(node.name for node in nodes if node.op == "null")
        return {
            nodes[node.inputs[1][0]].name: msgspec.convert(
                {k: _literal(v) for k, v in node.attributes().items() if k in NormAttributes.__struct_fields__},
                NormAttributes,
                strict=False,
            )
            for node in norms
        }, variables


def _literal(text: Any) -> Any:
    """The value of an attribute, which MXNet writes as text; a boolean as ``True`` or ``1``."""
    return {"True": True, "False": False}.get(text, text) if isinstance(text, str) else text
