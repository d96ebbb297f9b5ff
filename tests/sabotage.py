"""Real backends that build something subtly else than they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from resnet_xf import get_backend
from resnet_xf.nodes import Gate, Node, Residual, Sequential, join
from resnet_xf.trace import Observed, ObservedTrace
from resnet_xf.weights import Array, Weights

Change = Callable[[str, Node], Node]


def rebuilt(node: Node, change: Change, name: str = "") -> Node:
    """The tree with ``change`` applied to every leaf."""

    def inside(children: tuple[tuple[str, Node], ...]) -> tuple[tuple[str, Node], ...]:
        return tuple((child_name, rebuilt(child, change, join(name, child_name))) for child_name, child in children)

    match node:
        case Sequential():
            return Sequential(inside(node.children))
        case Gate():
            return Gate(inside(node.body))
        case Residual():
            shortcut = inside((("downsample", node.shortcut),))[0][1] if node.shortcut else None
            parts = {"pre": inside(node.pre), "body": inside(node.body), "post": inside(node.post)}
            return replace(node, shortcut=shortcut, **parts)
        case _:
            return change(name, node)


class Saboteur:
    """A backend that passes everything on to a real one, but for what a test has broken."""

    def __init__(
        self,
        name: str,
        node: Change = lambda name, node: node,
        load: Callable[[Weights], Weights] = dict,
        dump: Callable[[Weights], Weights] = dict,
        tells: bool = True,
    ) -> None:
        self.real = get_backend(name)
        self.node, self.changed_load, self.changed_dump, self.tells = node, load, dump, tells

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def build(self, node: Node, dtype: str = "float32") -> Any:
        return self.real.build(rebuilt(node, self.node), dtype)

    def trace(self, network: Any, images: Array) -> ObservedTrace:
        """What the network shows; without ``tells``, no norm's settings."""
        observed = self.real.trace(network, images)
        layers = observed.layers
        if not self.tells:
            layers = {name: Observed(layer.output_shape, layer.weight_shapes) for name, layer in layers.items()}
        return ObservedTrace(layers, observed.error)

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        self.real.load(network, self.changed_load({name: array.copy() for name, array in weights.items()}))

    def dump(self, network: Any) -> Weights:
        return self.changed_dump(self.real.dump(network))


def only(layer: str, **fields: Any) -> Change:
    """Change the fields of one layer."""
    return lambda name, node: replace(node, **fields) if name == layer else node
