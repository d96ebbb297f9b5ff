"""Frozen data that a person writes as TOML or JSON; every mistake is told by the path of its field.

Types and ranges are checked here, by msgspec; what they cannot say is checked by whoever uses the data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
from msgspec import inspect

from resnet_xf.errors import ResNetXFError, SpecError


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a document: frozen, unknown fields refused; what equals its default is not written out."""


class Document(Struct, frozen=True):
    """A whole document: what stands in a file."""

    title: ClassVar[str] = "a document"
    error: ClassVar[type[ResNetXFError]] = SpecError

    def to_toml(self) -> str:
        """The document as TOML text; fields at their defaults are left out."""
        return msgspec.toml.encode(self).decode()

    def to_json(self) -> str:
        """The document as JSON text; fields at their defaults are left out."""
        return msgspec.json.encode(self).decode()

    def to_complete_json(self) -> str:
        """The document as JSON text with every field, so that it outlives a change of defaults."""
        return msgspec.json.encode(_complete(self)).decode()

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read TOML text; raises the class's ``error`` with the path of the field that is wrong."""
        try:
            return msgspec.toml.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise cls.error(_path_first(error, cls)) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read JSON text; raises the class's ``error`` with the path of the field that is wrong."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise cls.error(_path_first(error, cls)) from None

    def checked(self) -> Self:
        """The same, its types and ranges checked: constructing one in Python checks neither.

        Raises:
            ResNetXFError: the class's ``error``, with the path of the field that is wrong.
        """
        try:
            return msgspec.convert(msgspec.to_builtins(self, enc_hook=_scalar), type(self))
        except (msgspec.MsgspecError, TypeError) as error:
            raise self.error(_path_first(error, type(self))) from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a ``.toml`` or ``.json`` file.

        Raises:
            ResNetXFError: the class's ``error``, if the file cannot be read or is malformed; the message names file
                and field.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        readers = {".toml": cls.from_toml, ".json": cls.from_json}
        if suffix not in readers:
            raise cls.error(f"{path}: {cls.title} is a .toml or .json file")
        try:
            return readers[suffix](path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise cls.error(f"{path}: not UTF-8 text") from None
        except OSError as error:
            raise cls.error(f"{path}: {error.strerror}") from None
        except cls.error as error:
            raise cls.error(f"{path}: {error}") from None


def _complete(value: object) -> object:
    """Plain data with every field of every struct."""
    if isinstance(value, msgspec.Struct):
        return {name: _complete(getattr(value, name)) for name in value.__struct_fields__}
    return [_complete(item) for item in value] if isinstance(value, tuple) else value


def _scalar(value: object) -> object:
    """Return a NumPy scalar as Python's own; raise TypeError for anything else. NumPy itself is not imported."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected plain data, got {value!r}, a {type(value).__name__}")


def _path_first(error: Exception, cls: type[Document]) -> str:
    """Msgspec's message with its path in front and the choices behind: ``$.block: invalid … 'x'; one of …``."""
    what, _, path = str(error).rpartition(" - at ") if " - at `$" in str(error) else (str(error), "", "")
    path = path.strip("`") or "$"
    what = re.sub(r"`str` matching regex .*", "a name of letters, digits, '.', '_' and '-'", what)
    choices = _choices(path, cls) if what.startswith(("Invalid enum", "Object contains unknown")) else ()
    hint = f"; expected one of {', '.join(map(str, choices))}" if choices else ""
    return f"{path}: {what[:1].lower()}{what[1:]}{hint}"


def _choices(path: str, cls: type[Document]) -> tuple[Any, ...]:
    """The literals, or else the names of the fields, that the place ``$.stages[0].…`` of a document can hold."""
    places: list[inspect.Type] = [inspect.type_info(cls)]
    for step in re.findall(r"\w+|\[", path.removeprefix("$")):
        if step.isdigit():
            continue
        places = [inner for place in places for inner in _inside(place, step)]
    literals = [value for place in places if isinstance(place, inspect.LiteralType) for value in place.values]
    fields = [f.name for place in places if isinstance(place, inspect.StructType) for f in place.fields]
    return tuple(literals or fields)


def _inside(place: inspect.Type, step: str) -> list[inspect.Type]:
    """The types one step down: a field of a struct, or (step ``[``) the items of an array."""
    found: list[inspect.Type] = []
    if isinstance(place, inspect.StructType):
        found = [field.type for field in place.fields if field.name == step]
    elif isinstance(place, inspect.VarTupleType):
        found = [place.item_type]
    return [option for one in found for option in (one.types if isinstance(one, inspect.UnionType) else [one])]
