"""The ``-symbol.json`` beside exported weights: it is checked here before anything reads it, MXNet included."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.errors import WeightsError
from resnet_xf.formats.converters import CROPS, OPERATORS, SHARED_NORM
from resnet_xf.formats.operators import whole_numbers
from resnet_xf.support.files import read_bytes, reading

MOST_BYTES = 2**24
"""The largest symbol; ResNet-152's has 500 kB."""

MOST_NODES = 50_000
"""The most nodes of a graph; ResNet-152's has 1,200."""

SIZES = {
    **dict.fromkeys(("kernel", "stride", "dilate", "output_size"), (1, 1024)),
    **dict.fromkeys(("pad", "pad_width"), (0, 1024)),
    **dict.fromkeys(("num_filter", "num_group", "num_groups", "num_hidden"), (1, 1_000_000)),
}
"""The smallest and the largest number in an attribute that holds sizes. MXNet divides by some without a check."""


CASTS = ("Cast", "cast", "_npi_cast", "_npx_cast", "amp_cast")
FLOATS = ("float16", "bfloat16", "float32", "float64")
"""``CASTS``: operators that change the type of values, as for float16. ``FLOATS``: the types that a network has."""

TRUNK = "; convert --backbone takes the residual network out of a larger one"


class SymbolNode(msgspec.Struct):
    """An operator or, if ``op`` is ``null``, a variable. MXNet's versions write attributes under three names."""

    op: str
    name: str
    inputs: list[list[int]] = []
    attrs: dict[str, Any] = {}
    attr: dict[str, Any] = {}
    param: dict[str, Any] = {}

    def attributes(self) -> dict[str, str]:
        """Return the attributes as text, without those of MXNet's own book-keeping."""
        attributes = {**self.attr, **self.param, **self.attrs}
        return {key: str(value) for key, value in attributes.items() if not key.startswith("__")}


class _Document(msgspec.Struct):
    nodes: list[SymbolNode]
    heads: list[list[int]] = []
    attrs: dict[str, Any] = {}


@dataclass(frozen=True)
class Symbol:
    """A checked graph.

    Attributes:
        path: the file.
        nodes: each is connected to nodes before it alone. A cast to one of ``FLOATS`` is without operator (``op`` is
            empty), and nothing is connected to it. In a part of a network, so is a node that was refused.
        head: the number of the node that is the output; of several the first.
        version: of the MXNet that wrote it, as 10901 for 1.9.1; None in old files.
        casts: the names of the casts to float16 and bfloat16.
    """

    path: Path
    nodes: list[SymbolNode]
    head: int
    version: int | None
    casts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the network, by the file's."""
        return self.path.name.removesuffix("-symbol.json")

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The names of all variables."""
        return tuple(node.name for node in self.nodes if node.op == "null")

    def for_mxnet(self, head: int) -> bytes:
        """Return the graph up to a node, for MXNet in float64; it holds only what was checked.

        MXNet has two operators in float32 alone. A batch norm that shares its statistics in training becomes an
        ordinary one. A leaky ReLU becomes ``relu(x) - slope * relu(-x)``.
        """
        nodes: list[dict[str, Any]] = []
        places: dict[int, int] = {}

        def add(op: str, name: str, inputs: list[list[int]], attributes: dict[str, str]) -> list[int]:
            nodes.append({"op": op, "name": name, "inputs": inputs} | ({"attrs": attributes} if op != "null" else {}))
            return [len(nodes) - 1, 0, 0]

        for number in self.reached(head):
            node = self.nodes[number]
            name, attributes = node.name, node.attributes()
            inputs = [[places[n], *rest, 0][:3] for n, *rest in node.inputs]
            if node.op == SHARED_NORM:
                own = {key: text for key, text in attributes.items() if key not in ("key", "ndev")}
                add("BatchNorm", name, inputs, own)
            elif node.op == "LeakyReLU":
                low = add("negative", f"{name}_negative", inputs[:1], {})
                low = add("Activation", f"{name}_low", [low], {"act_type": "relu"})
                if attributes.get("act_type", "leaky") == "prelu":
                    slopes = add("Reshape", f"{name}_slopes", inputs[1:2], {"shape": "(1, -1, 1, 1)"})
                    low = add("broadcast_mul", f"{name}_product", [low, slopes], {})
                else:
                    slope = float(np.float32(attributes.get("slope", "0.25")))
                    low = add("_mul_scalar", f"{name}_product", [low], {"scalar": repr(slope)})
                high = add("Activation", f"{name}_high", inputs[:1], {"act_type": "relu"})
                add("elemwise_sub", name, [high, low], {})
            else:
                add(node.op, name, inputs, attributes)
            places[number] = len(nodes) - 1
        graph: dict[str, Any] = {
            "nodes": nodes,
            "arg_nodes": [number for number, node in enumerate(nodes) if node["op"] == "null"],
            "heads": [[places[head], 0, 0]],
        }
        if self.version is not None:
            graph["attrs"] = {"mxnet_version": ["int", self.version]}
        return msgspec.json.encode(graph)

    def inputs(self, number: int) -> list[int]:
        """Return the numbers of a node's inputs; where a map is cropped, of the map alone."""
        node = self.nodes[number]
        return [connection[0] for connection in node.inputs[: 1 if node.op in CROPS else None]]

    def reached(self, head: int) -> list[int]:
        """Return the numbers of all nodes that a node depends on, and its own, in order."""
        reached, waiting = {head}, [head]
        while waiting:
            for source in self.inputs(waiting.pop()):
                if source not in reached:
                    reached.add(source)
                    waiting.append(source)
        return sorted(reached)


def symbol_beside(params: str | Path) -> Path | None:
    """The path of ``net-symbol.json`` beside ``net-0000.params``, or None if there is none."""
    path = symbol_path(params)
    return path if path.is_file() and path != Path(params) else None


def symbol_path(params: str | Path) -> Path:
    """The path where a file's graph is looked for: ``net-symbol.json`` beside ``net-0000.params``."""
    params = Path(params)
    return params.with_name(re.sub(r"(-\d{4})?\.params$", "-symbol.json", params.name))


def graph_elsewhere(params: str | Path) -> str:
    """A remark on graphs that lie beside a file under other names; empty if there are none."""
    wanted = symbol_path(params)
    others = sorted(path.name for path in wanted.parent.glob("*-symbol.json")) if not wanted.is_file() else []
    verb = "lies" if len(others) == 1 else "lie"
    return f"{', '.join(others[:3])} {verb} beside the file; its graph is looked for as {wanted.name}" if others else ""


def read_symbol(path: str | Path, *, part: bool = False) -> Symbol:
    """Read a graph and check it.

    Args:
        path: the file.
        part: read a graph of which a residual network is only a part; whatever is refused is taken to be no part of it.

    Raises:
        WeightsError: if it cannot be read, or has operators, connections or sizes that no residual network has; some of
            them crash MXNet. The message names the node.
    """
    with reading(path, WeightsError, "a symbol of MXNet"):
        document = msgspec.json.decode(read_bytes(path, MOST_BYTES), type=_Document)
        count = len(document.nodes)
        if count > MOST_NODES or not document.heads or (len(document.heads) > 1 and not part):
            raise WeightsError(
                f"has {count:,} nodes and {len(document.heads)} outputs; expected one output, and at most "
                f"{MOST_NODES:,} nodes{TRUNK}"
            )
        casts = _remove_casts(document)
        for number, node in enumerate(document.nodes):
            if not node.op:
                continue
            try:
                _check_node(number, node, OPERATORS | CROPS.keys() if part else OPERATORS)
            except WeightsError:
                if not part:
                    raise
                document.nodes[number] = SymbolNode("", node.name)
        _check_connection("the output", document.heads[0], count, outputs=count if part else 1)
        kind_and_version = document.attrs.get("mxnet_version")
        version = kind_and_version[-1] if isinstance(kind_and_version, list) and kind_and_version else None
        known = isinstance(version, int) and 0 <= version <= 10**6
        return Symbol(Path(path), document.nodes, document.heads[0][0], version if known else None, casts)


def _remove_casts(document: _Document) -> tuple[str, ...]:
    """Connect what reads the output of a cast to what is cast. Return the names of casts to float16 and bfloat16.

    A network then computes in one type, which is that of its images and weights. ``amp_multicast`` casts each of its
    inputs to an output of the same number.
    """
    sources: dict[tuple[int, ...], list[int]] = {}
    low: list[str] = []

    def source(connection: list[int]) -> list[int]:
        return sources.get((*connection, 0)[:2], connection)

    for number, node in enumerate(document.nodes):
        node.inputs = [source(connection) for connection in node.inputs]
        dtype, several = node.attributes().get("dtype"), node.op == "amp_multicast"
        if node.inputs and (several or (node.op in CASTS and dtype in FLOATS)):
            sources |= {(number, output): given for output, given in enumerate(node.inputs)}
            low += [node.name] if several or dtype in ("float16", "bfloat16") else []
            document.nodes[number] = SymbolNode("", node.name)
    document.heads = [source(connection) for connection in document.heads]
    return tuple(low)


def _check_node(number: int, node: SymbolNode, operators: frozenset[str]) -> None:
    where = f"node {node.name!r}"
    if node.op not in operators:
        raise WeightsError(f"{where} ({node.op}): no plan of a residual network has this operator{TRUNK}")
    for connection in node.inputs:
        _check_connection(where, connection, number)
    if node.op == "null":
        return
    attributes = node.attributes()
    for key in attributes.keys() & SIZES.keys():
        low, high = SIZES[key]
        if not all(low <= size <= high for size in whole_numbers(attributes[key])):
            raise WeightsError(f"{where}: {key} is {attributes[key]!r}; expected sizes from {low} to {high:,}")


def _check_connection(where: str, connection: list[int], nodes: int, outputs: int = 1) -> None:
    """Check a connection to one of the first nodes: its number, the number of its output, and a version of that."""
    number, output, version = (*connection, 0, 0, 0)[:3]
    if not connection or not 0 <= number < nodes or not 0 <= output < outputs or not 0 <= version <= nodes:
        raise WeightsError(f"{where} is connected to {connection}; expected the first output of a node before it")
