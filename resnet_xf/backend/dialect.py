"""What a backend says of its framework's Python, so that a network can be written as source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_xf.architecture.nodes import Node


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a framework's networks are written.

    Attributes:
        title: of the framework.
        imports: groups of imports, each by a word that the source has if it needs that line.
        module: the base class of a block.
        forward: the signature of the method that computes, as ``forward(self, x)``.
        layer: returns the expression that makes a layer; its fields are numbers or expressions.
        sequence: the function that makes a container of its arguments, one after another.
        named_sequence: a text with ``{}`` for the children, which have keywords as names.
        gate: a text with ``{}`` for the children, as above: their output is multiplied by their input.
        identity: the expression of a layer that changes nothing.
        helpers: the source of classes and functions by their names; those that occur are written into the file.
        load: lines that make the network of ``model.py`` and load a file of weights.
    """

    title: str
    imports: tuple[Mapping[str, str], ...]
    module: str
    forward: str
    layer: Callable[[Node], str]
    sequence: str
    named_sequence: str
    gate: str
    identity: str
    helpers: Mapping[str, str]
    load: str


def call(function: str, *arguments: Any, **options: tuple[Any, Any]) -> str:
    """A call as source; each option is its value and the framework's default, which is left out."""
    keywords = [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]
    return f"{function}({', '.join([*map(repr, arguments), *keywords])})"
