"""A plan as plain data: each layer with its name, its kind and its arguments, for networks that no spec describes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import msgspec

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, Sequential
from resnet_xf.errors import SpecError

MOST_LAYERS = 20_000
"""The most layers in a network; a ResNet of 600 blocks has 6,000."""

DEEPEST = 20
"""How deep containers may be nested. A stage, a block and its shortcut are three."""

KINDS: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in vars(nodes).values()
    if isinstance(kind, type) and hasattr(kind, "__match_args__") and kind not in (nodes.Add, nodes.Chain, nodes.Taps)
}
"""The classes of nodes by name, as ``Conv``. A block holds its own sum, and only a backbone is ``Taps``."""

OWN = re.compile(
    "_.*|T_destination|(get|named|register|set)_.*|add_module|append|apply|bfloat16|buffers|call_super_init|cast|"
    "children|collect_params|compile|cpu|cuda|double|dump_patches|eval|export|extend|extra_repr|float|forward|half|"
    "hybrid_forward|hybridize|infer_shape|infer_type|initialize|insert|ipu|load|load_parameters|load_params|"
    "load_state_dict|modules|mtia|name|name_scope|node|optimize_for|parameters|params|pop|prefix|register|"
    "requires_grad_|run|save|save_parameters|save_params|share_memory|state_dict|summary|to|to_empty|train|training|"
    "type|xpu|zero_grad"
)
"""Names that modules of PyTorch or blocks of Gluon use themselves."""

_HINTS = {kind: get_type_hints(kind, include_extras=True) for kind in KINDS.values()}


def encode(children: Children) -> tuple[dict[str, Any], ...]:
    """Return named nodes as plain data. Arguments at their defaults are left out."""
    return tuple({"name": name} | _encoded(node) for name, node in children)


def _encoded(node: Node) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": type(node).__name__}
    for field in fields(node):  # type: ignore[arg-type]
        value = getattr(node, field.name)
        if value == field.default or value is None:
            continue
        if isinstance(value, Node):
            value = _encoded(value)
        elif field.type == "Children":
            value = [*encode(value)]
        elif isinstance(value, tuple):
            value = [*value]
        data[field.name] = value
    return data


def decode(layers: Sequence[Any]) -> Sequential:
    """Return the nodes of plain data, as :func:`encode` returns it.

    Raises:
        SpecError: if an argument is missing, unknown or out of range; the message begins with its path.
    """
    reader = _Reader()
    return Sequential(reader.children(layers, "$.layers", 1))


class _Reader:
    """Reads nodes, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def children(self, layers: object, path: str, depth: int) -> Children:
        if not isinstance(layers, list | tuple):
            raise SpecError(f"{path}: expected a list of layers, got {layers!r:.80}")
        children: dict[str, Node] = {}
        for number, data in enumerate(layers):
            where = f"{path}[{number}]"
            name = data.get("name") if isinstance(data, dict) else None
            if not isinstance(name, str) or not re.fullmatch(r"\w{1,200}", name) or name in children:
                raise SpecError(
                    f"{where}.name: expected letters, digits and _, unique among its siblings; got {name!r:.80}"
                )
            if OWN.fullmatch(name):
                raise SpecError(f"{where}.name: PyTorch's or Gluon's layers use {name!r} themselves; choose another")
            children[name] = self.node({key: value for key, value in data.items() if key != "name"}, where, depth)
        return tuple(children.items())

    def node(self, data: object, path: str, depth: int) -> Node:
        self.count += 1
        if self.count > MOST_LAYERS or depth > DEEPEST:
            raise SpecError(f"{path}: at most {MOST_LAYERS:,} layers, and {DEEPEST} containers in each other, are read")
        kind = KINDS.get(str(data.get("kind"))) if isinstance(data, dict) else None
        if kind is None or not isinstance(data, dict):
            raise SpecError(f"{path}.kind: expected one of {', '.join(KINDS)}")
        arguments = {}
        known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := data.keys() - known.keys() - {"kind"}:
            raise SpecError(f"{path}.{min(unknown)}: {kind.__name__} has no such argument; it has {', '.join(known)}")
        for name, field in known.items():
            if name not in data:
                if field.default is MISSING and name != "shortcut":
                    raise SpecError(f"{path}.{name}: is missing")
                continue
            arguments[name] = self.argument(data[name], field.type, _HINTS[kind][name], f"{path}.{name}", depth)
        node = kind(**{"shortcut": None} | arguments if kind is nodes.Residual else arguments)
        names = [name for name, _ in node.named_children()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SpecError(f"{path}: holds two layers that are called {twice[0]!r}")
        return node

    def argument(self, value: object, type_: object, hint: Any, path: str, depth: int) -> Any:
        if type_ == "Children":
            return self.children(value, path, depth + 1)
        if type_ == "Node | None":
            return self.node(value, path, depth + 1)
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise SpecError(f"{path}: {str(error)[:1].lower()}{str(error)[1:]}") from None
