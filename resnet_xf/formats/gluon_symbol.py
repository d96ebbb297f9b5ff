"""The ``-symbol.json`` of an exported network: its batch norms, and the check before MXNet runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.errors import WeightsError
from resnet_xf.support.files import read_bytes, reading

MOST_BYTES = 2**24
"""The largest symbol; ResNet-152's has 500 kB."""


MOST_NODES = 50_000
"""The most nodes of a graph that is run; ResNet-152's has 1,200."""

_OPERATORS = (
    "null Activation BatchNorm BatchNorm_v1 BlockGrad Cast Convolution Dropout Flatten FullyConnected LeakyReLU "
    "Pad Pooling Reshape SoftmaxActivation SoftmaxOutput _Mul _Plus _contrib_AdaptiveAvgPooling2D _copy "
    "_div_scalar _greater_scalar _minus_scalar _mul _mul_scalar _plus _plus_scalar add_n broadcast_add "
    "broadcast_greater broadcast_mul broadcast_sub clip elemwise_add elemwise_mul elemwise_sub exp expand_dims "
    "identity log_softmax mean negative ones_like pad relu sigmoid softmax squeeze sum tanh transpose where "
    "zeros_like"
)
OPERATORS = frozenset(_OPERATORS.split())
"""The operators that residual networks have. Others may read files, or make more of a tensor than memory holds."""

SIZES = {
    **dict.fromkeys(("kernel", "stride", "dilate", "output_size"), (1, 1024)),
    **dict.fromkeys(("pad", "pad_width"), (0, 1024)),
    **dict.fromkeys(("num_filter", "num_group", "num_hidden"), (1, 1_000_000)),
}
"""The smallest and the largest number in an attribute that holds sizes. MXNet divides by some without a check."""


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
    heads: list[list[int]] = []


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


def checked_graph(path: str | Path) -> bytes:
    """The network in a symbol, as a graph for MXNet that holds only what was checked.

    Raises:
        WeightsError: if it has operators, connections or sizes that no residual network has; some of them crash MXNet.
    """
    with reading(path, WeightsError, "a symbol of MXNet"):
        symbol = msgspec.json.decode(read_bytes(path, MOST_BYTES), type=_Symbol)
        if len(symbol.nodes) > MOST_NODES or len(symbol.heads) != 1:
            raise WeightsError(
                f"has {len(symbol.nodes):,} nodes and {len(symbol.heads)} outputs; expected one output and at most "
                f"{MOST_NODES:,} nodes"
            )
        graph = {
            "nodes": [_checked_node(number, node) for number, node in enumerate(symbol.nodes)],
            "arg_nodes": [number for number, node in enumerate(symbol.nodes) if node.op == "null"],
            "heads": [_connection("the output", symbol.heads[0], len(symbol.nodes))],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        return msgspec.json.encode(graph)


def _checked_node(number: int, node: _Node) -> dict[str, Any]:
    where = f"node {node.name!r}"
    if node.op not in OPERATORS:
        raise WeightsError(f"{where} is a {node.op!r}, which no residual network has; move the symbol file away")
    inputs = [_connection(where, connection, number) for connection in node.inputs]
    if node.op == "null":
        return {"op": node.op, "name": node.name, "inputs": []}
    attributes = {key: str(value) for key, value in node.attributes().items() if not key.startswith("__")}
    for key in attributes.keys() & SIZES.keys():
        low, high = SIZES[key]
        words = attributes[key].strip("()[] ").split(",")
        sizes = [int(word) for word in words if word.strip()]
        if not all(low <= size <= high for size in sizes):
            raise WeightsError(f"{where}: {key} is {attributes[key]!r}; expected sizes from {low} to {high:,}")
    return {"op": node.op, "name": node.name, "inputs": inputs, "attrs": attributes}


def _connection(where: str, connection: list[int], nodes: int) -> list[int]:
    """A connection to one of the first nodes: its number, the number of its output, and a version of that."""
    number, output, version = (*connection, 0, 0, 0)[:3]
    if not 0 <= number < nodes or output != 0 or not 0 <= version <= nodes:
        raise WeightsError(f"{where} is connected to {connection}; expected the first output of a node before it")
    return [number, output, version]


def _literal(text: Any) -> Any:
    """The value of an attribute, which MXNet writes as text; a boolean as ``True`` or ``1``."""
    return {"True": True, "False": False}.get(text, text) if isinstance(text, str) else text
