"""Residual blocks that differ in numbers alone, as one class with parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Children, Node, Residual, walk

KINDS_OF_NUMBERS = {
    **dict.fromkeys(("in_channels", "out_channels", "channels", "in_features", "out_features"), "channels"),
    **dict.fromkeys(("stride", "kernel"), "stride"),
    **dict.fromkeys(("dilation", "padding"), "dilation"),
}
"""What a field of a node counts; any other field is a kind of its own. Fields of one kind may share a parameter."""

DEFAULTS = {"stride": 1, "dilation": 1, "groups": 1, "present": False}
"""The defaults of parameters by their kind; the others must be given."""


class Expression(str):
    """An expression in a block's source, as ``4 * channels``, with its value in each of the merged blocks."""

    __slots__ = ("values",)

    values: tuple[Any, ...]

    def __new__(cls, text: str, values: Iterable[Any]) -> Expression:
        """Make an expression from its text and its values."""
        expression = super().__new__(cls, text)
        expression.values = tuple(values)
        return expression

    def __repr__(self) -> str:
        return str(self)

    def __rsub__(self, number: float) -> Expression:
        """The expression ``number - self``."""
        return Expression(f"{number} - {self}", (number - value for value in self.values))

    def __round__(self, digits: int) -> Expression:
        """The expression itself, which keeps all digits."""
        return self


@dataclass(frozen=True, slots=True)
class Option(Node):
    """A child that only some of the merged blocks have: those for which the expression ``when`` is true."""

    node: Node
    when: str


class ConflictError(Exception):
    """Two blocks differ in more than numbers, so that they need two classes."""


@dataclass
class Template:
    """A class of blocks.

    Attributes:
        name: of the class.
        blocks: the different blocks, each of them once.
        root: a block whose fields hold numbers and :class:`Expression`.
        parameters: the class's parameters, with their kinds, in the order of the signature.
    """

    name: str
    blocks: list[Residual]
    root: Residual = field(init=False)
    parameters: dict[Expression, str] = field(init=False)

    def __post_init__(self) -> None:
        merge = _Merge()
        self.root = merge.block(self.blocks)
        self.parameters = dict(sorted(merge.parameters.items(), key=lambda item: item[1] in DEFAULTS))

    def signature(self) -> str:
        """The parameters as in ``def``."""
        return ", ".join(
            f"{name}={DEFAULTS[kind]!r}" if kind in DEFAULTS else name for name, kind in self.parameters.items()
        )

    def call(self, block: Residual) -> str:
        """The expression that makes a block."""
        at = self.blocks.index(block)
        arguments = []
        for name, kind in self.parameters.items():
            if kind not in DEFAULTS:
                arguments.append(repr(name.values[at]))
            elif name.values[at] != DEFAULTS[kind]:
                arguments.append(f"{name}={name.values[at]!r}")
        return f"{self.name}({', '.join(arguments)})"


def templates(root: Node) -> list[Template]:
    """The classes of all blocks in a network, in the order of their first blocks."""
    groups: dict[Any, list[Residual]] = {}
    for _, node in walk(root):
        if isinstance(node, Residual):
            group = groups.setdefault(_structure(node), [])
            group.extend([node] if node not in group else [])
    found: list[Template] = []
    for group in groups.values():
        for split in (lambda blocks: [blocks], _by_shortcut, lambda blocks: [[block] for block in blocks]):
            with suppress(ConflictError):
                found += [Template(_title(found, n), part) for n, part in enumerate(split(group))]
                break
    return found


def _title(before: Sequence[Template], more: int = 0) -> str:
    number = len(before) + more
    return f"Residual{number + 1}" if number else "Residual"


def _by_shortcut(blocks: Sequence[Residual]) -> list[list[Residual]]:
    """Blocks with shortcuts of one structure each; those without are with the blocks before them."""
    parts: dict[Any, list[Residual]] = {}
    key: Any = None
    for block in blocks:
        if block.shortcut:
            key = [(name, type(node), [*_words(node)]) for name, node in walk(block.shortcut)]
        parts.setdefault(repr(key), []).append(block)
    return [*parts.values()]


def _structure(node: Node) -> Any:
    """What merged blocks have in common: everything but numbers, shortcuts, and poolings in the body."""
    children = [
        (name, _structure(child))
        for name, child in node.named_children()
        if name != "downsample" and not isinstance(child, nodes.Pool | nodes.Pad)
    ]
    return type(node), tuple(_words(node)), tuple(children)


def _words(node: Node) -> Iterator[tuple[str, Any]]:
    """The fields that are no numbers; whether a scale starts at 0 is none of the arithmetic."""
    for one in fields(node):  # type: ignore[arg-type]
        value = getattr(node, one.name)
        if isinstance(value, str | bool | tuple) and one.type != "Children" and one.name != "zero_init":
            yield one.name, value


class _Merge:
    """Merges blocks, and collects the parameters by which they differ."""

    def __init__(self) -> None:
        self.parameters: dict[Expression, str] = {}

    def block(self, blocks: Sequence[Residual]) -> Residual:
        """Merge blocks; the body comes before the shortcut, whose numbers are mostly the body's."""
        pre, body, post = (self.children([getattr(b, part) for b in blocks]) for part in ("pre", "body", "post"))
        merged = replace(blocks[0], pre=pre, body=body, post=post, shortcut=None)
        shortcuts = [b.shortcut for b in blocks]
        if not any(shortcuts):
            return merged
        convs = [conv for _, conv in walk(merged) if isinstance(conv, nodes.Conv)]
        ends = (convs[0].in_channels, convs[-1].out_channels) if convs else (0, 0)
        present = [shortcut is not None for shortcut in shortcuts]
        return replace(merged, shortcut=self.option(self.node(shortcuts), "project", present, ends))

    def option(self, node: Node, name: str, present: Sequence[bool | None], ends: tuple[Any, Any] = (0, 0)) -> Node:
        """The node, with the condition for it if some blocks have none; None in ``present`` stands for either."""
        return Option(node, self.condition(name, present, ends)) if False in present else node

    def children(self, several: Sequence[Children | None]) -> Children:
        """Merge children by their names. A list that is None may be anything."""
        named = [None if children is None else dict(children) for children in several]
        order = [*max(filter(None, named), key=len, default={})]
        if any(children and [name for name in order if name in children] != [*children] for children in named):
            raise ConflictError
        merged = []
        for name in order:
            child = self.node([None if children is None else children.get(name) for children in named])
            present = [None if children is None else name in children for children in named]
            merged.append((name, self.option(child, f"with_{name}", present)))
        return tuple(merged)

    def node(self, several: Sequence[Node | None]) -> Node:
        """Merge nodes of one kind; absent ones are None."""
        known = [one for one in several if one is not None]
        first = known[0]
        if isinstance(first, Residual):  # a block inside a block has a class of its own
            if any(one != first for one in known):
                raise ConflictError
            return first
        if any(type(one) is not type(first) or [*_words(one)] != [*_words(first)] for one in known):
            raise ConflictError
        changed: dict[str, Any] = {}
        for one in fields(first):  # type: ignore[arg-type]
            values = [None if node is None else getattr(node, one.name) for node in several]
            if one.type == "Children":
                changed[one.name] = self.children(values)
            elif isinstance(getattr(first, one.name), int | float) and not isinstance(getattr(first, one.name), bool):
                changed[one.name] = self.number(one.name, values)
        return replace(first, **changed)  # type: ignore[type-var]

    def number(self, name: str, values: Sequence[Any]) -> Any:
        """A number, or an expression in the parameters that has these values; None stands for any."""
        kind = KINDS_OF_NUMBERS.get(name, name)
        known = [value for value in values if value is not None]
        constant = len(set(known)) == 1
        if constant and len(known) == len(values):
            return known[0]
        for parameter in [one for one, its in self.parameters.items() if its == kind]:
            if symbol := _in_terms_of(parameter, values, multiples=kind == "channels" and parameter != "in_channels"):
                return symbol
        if constant:
            return known[0]
        title = {"padding": "dilation"}.get(name, name)
        if kind == "channels":
            title = "channels" if kind in self.parameters.values() else "in_channels"
        return self.new(kind, known[0], values, title)

    def new(self, kind: str, filler: Any, values: Sequence[Any], name: str) -> Expression:
        """A new parameter, with a name that no other has."""
        number = 1 + sum(str(one).rstrip("0123456789") == name for one in self.parameters)
        symbol = Expression(name if number == 1 else f"{name}{number}", (filler if v is None else v for v in values))
        self.parameters[symbol] = kind
        return symbol

    def condition(self, name: str, present: Sequence[bool | None], ends: tuple[Any, Any]) -> str:
        """An expression that is true where something is present; None stands for any."""
        strides = [
            (f"{one} != 1", [v != 1 for v in one.values]) for one, kind in self.parameters.items() if kind == "stride"
        ]
        inner, outer = ([*end.values] if isinstance(end, Expression) else [end] * len(present) for end in ends)
        widens = [(f"{ends[0]} != {ends[1]}", [a != b for a, b in zip(inner, outer, strict=True)])]
        both = [(f"{a} or {b}", [*map(any, zip(x, y, strict=True))]) for a, x in strides for b, y in widens]
        for text, values in (*strides, *widens, *both):
            if _match(values, present):
                return text
        return self.new("present", False, present, name)


def _match(values: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return all(other is None or value == other for value, other in zip(values, wanted, strict=True))


def _in_terms_of(parameter: Expression, wanted: Sequence[Any], *, multiples: bool) -> Expression | None:
    """The parameter, a multiple or a part of it, if that has the wanted values."""
    if _match(parameter.values, wanted):
        return parameter
    if multiples:
        at = next(n for n, value in enumerate(wanted) if value is not None)
        more, less = wanted[at] // parameter.values[at], parameter.values[at] // wanted[at]
        for text, values in (
            (f"{more} * {parameter}", [more * value for value in parameter.values]),
            (f"{parameter} // {less}", [value // less if less else 0 for value in parameter.values]),
        ):
            if _match(values, wanted):
                return Expression(text, values)
    return None
