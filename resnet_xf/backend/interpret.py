"""Running a network without building one, for frameworks whose layers are functions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnet_xf.architecture.nodes import Add, Children, Gate, Node, Residual, Sequential, Taps, join

Compute = Callable[..., Any]
"""``compute(name, node, *inputs)`` returns the output of one node without children."""

Show = Callable[[str, tuple[Any, ...], Any], object]
"""``show(name, inputs, output)`` is called for every node once it has finished."""


def interpret(node: Node, compute: Compute, show: Show, *inputs: Any, name: str = "") -> Any:
    """Run a node and what it holds, and return its output: an array, or a list of them for :class:`Taps`.

    The arrays are the framework's own; a gate multiplies them by ``*``.
    """
    x = inputs[0]

    def chain(children: Children, x: Any) -> Any:
        for child, inner in children:
            x = interpret(inner, compute, show, x, name=join(name, child))
        return x

    match node:
        case Sequential():
            output = chain(node.children, x)
        case Taps():
            maps = {}
            for child in node.children:
                maps[child[0]] = x = chain((child,), x)
            output = [maps[tap] for tap in node.names]
        case Gate():
            output = x * chain(node.children, x)
        case Residual():
            before = chain(node.pre, x)
            body = chain(node.body, before)
            shortcut = chain(node.downsample, before if node.shortcut_from == "preactivation" and node.shortcut else x)
            output = chain(node.post, interpret(Add(), compute, show, body, shortcut, name=join(name, "add")))
        case _:
            output = compute(name, node, *inputs)
    show(name, inputs, output[-1] if isinstance(output, list) else output)
    return output
