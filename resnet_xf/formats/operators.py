"""One operator of an exported graph: its attributes, read as what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.rules import LARGEST
from resnet_xf.architecture.weights import Weights
from resnet_xf.errors import WeightsError

Variables: TypeAlias = dict[str, str]
"""By the last word of an array, as ``weight``, the variable of the graph that holds it."""

Layer: TypeAlias = tuple[Node, Variables] | None

IGNORED = frozenset(("workspace", "cudnn_off", "cudnn_tune", "p_value", "lower_bound", "upper_bound", "dtype", "ctx"))
"""Attributes that change no result."""


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a text as ``(3, 3)`` or ``[3L, 3L]``. Raises ValueError for any other text."""
    return tuple(int(word.rstrip("Ll")) for word in _words(text))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.strip("()[] ").split(",") if word.strip()]


@dataclass
class Value:
    """What is known of an operator's output before the image's size is: its axes and its channels.

    ``view`` is set while the channels are seen as several axes, as split attention does.
    """

    axes: int = 4
    channels: int | None = None
    view: tuple[str | int, ...] = ()


@dataclass
class Operator:
    """One operator of a graph.

    Attributes:
        name: its name.
        op: its kind, as ``Convolution``.
        attributes: texts, by name.
        inputs: the names of its inputs.
        value: what is known of its first input.
        tensors: all arrays of the file.
        notes: remarks on what was left out.
        then: a second layer that the operator is; None if it is one.
    """

    name: str
    op: str
    attributes: Mapping[str, str]
    inputs: list[str]
    value: Value
    tensors: Weights
    notes: list[str]
    read: set[str] = field(default_factory=set)
    then: Node | None = None

    def refuse(self, why: str) -> WeightsError:
        """Return the error for an operator that cannot be a part of a plan."""
        return WeightsError(f"node {self.name!r} ({self.op}): {why}")

    def text(self, key: str, default: str) -> str:
        """Return an attribute as text."""
        self.read.add(key)
        return str(self.attributes.get(key, default))

    def number(self, key: str, default: float | None = None) -> float:
        """Return an attribute as a number."""
        text = self.text(key, "" if default is None else repr(default))
        with suppress(ValueError):
            if abs(number := float(text)) <= LARGEST:
                return number
        raise self.refuse(f"{key} is {text!r}, expected a number")

    def single(self, key: str, default: float | None = None) -> float:
        """Return an attribute as the float32 value that MXNet makes of it."""
        return float(np.float32(self.number(key, default)))

    def flag(self, key: str, *, default: bool) -> bool:
        """Return an attribute that is true or false."""
        text = self.text(key, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise self.refuse(f"{key} is {text!r}, expected True or False")
        return text in ("true", "1")

    def whole(self, key: str, default: int | None = None) -> int:
        """Return an attribute as a whole number."""
        return int(self.number(key, default))

    def sizes(self, key: str, default: str = "") -> tuple[int, ...]:
        """Return an attribute as whole numbers, as ``(3, 3)``."""
        text = self.text(key, default)
        try:
            return whole_numbers(text)
        except ValueError:
            raise self.refuse(f"{key} is {text!r}, expected whole numbers") from None

    def constants(self, key: str, default: str) -> tuple[float, ...]:
        """Return an attribute as numbers, as ``(0.5, 0.4, 0.3)``; one for each channel, or one for all."""
        text = self.text(key, default)
        with suppress(ValueError):
            numbers = tuple(map(float, _words(text)))
            if numbers and all(abs(number) <= LARGEST for number in numbers):
                return numbers
        raise self.refuse(f"{key} is {text!r}, expected numbers")

    def square(self, key: str, default: int | None = None) -> int:
        """Return an attribute that is the same for height and width."""
        sizes = self.sizes(key) or (() if default is None else (default, default))
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            raise self.refuse(f"{key} is {sizes}, expected the same number for height and width")
        return sizes[0]

    def expect(self, key: str, *choices: str) -> str:
        """Return an attribute as text, which must be one of the choices; the first one is the default."""
        if (text := self.text(key, choices[0])) not in choices:
            raise self.refuse(f"{key} is {text!r}, expected {' or '.join(map(repr, choices))}")
        return text

    def array(self, number: int, axes: int) -> tuple[int, ...]:
        """Return the shape of the array that an input is."""
        name = self.inputs[number] if number < len(self.inputs) else f"input {number}"
        if name not in self.tensors:
            raise self.refuse(f"{name} is no array in the file")
        shape = self.tensors[name].shape
        if len(shape) != axes:
            raise self.refuse(f"{name} has the shape {shape}, expected {axes} axes")
        return tuple(shape)

    def needs(self, axes: int) -> None:
        """Refuse an input with another number of axes."""
        if self.value.axes != axes or self.value.view:
            raise self.refuse(f"its input is not {'(N, C, H, W)' if axes == 4 else '(N, C)'}")

    def finish(self) -> None:
        """Refuse attributes that nothing has read."""
        unknown = [key for key in self.attributes if key not in self.read | IGNORED and not key.startswith("__")]
        if unknown:
            raise self.refuse(f"the attribute {unknown[0]}={self.attributes[unknown[0]]} has no counterpart in a plan")
