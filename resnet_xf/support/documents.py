"""Frozen data that a user writes as TOML or JSON. Every error names the path of the field.

msgspec checks types and ranges here. What a type cannot express is checked by the code that uses the data.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
from msgspec import inspect

from resnet_xf.errors import ResNetXFError, SpecError, refuse
from resnet_xf.support.files import read_bytes, reading

MOST_BYTES = {".toml": 2**16, ".json": 2**24}
"""The largest document by suffix, in bytes. Python's own reader of TOML takes quadratic time."""

MOST_DOTS = 4000
"""The most dots in TOML. The time to read a key grows with the square of the dots in it."""


def read_part(kind: Any, data: Any) -> Any:
    """Return a field whose class reads plain data by its own ``from_builtins``; the ``dec_hook`` of every document."""
    return kind.from_builtins(data)


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a document. Unknown fields are refused, and fields at their defaults are not written."""


class Document(Struct, frozen=True):
    """A whole document, as it stands in a file.

    Attributes:
        title: what the document is called in messages.
        error: what is raised if it is malformed.
    """

    title: ClassVar[str] = "a document"
    error: ClassVar[type[ResNetXFError]] = SpecError

    def to_toml(self) -> str:
        """Return the document as TOML, without fields at their defaults."""
        return msgspec.toml.encode(self).decode()

    def to_json(self) -> str:
        """Return the document as JSON, without fields at their defaults."""
        return msgspec.json.encode(self).decode()

    def to_complete_json(self) -> str:
        """Return the document as JSON with every field, so that a later change of defaults does not alter it."""
        return msgspec.json.encode(_complete(self)).decode()

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read TOML. Raises the class's ``error`` with the path of the wrong field."""
        refuse(cls.error, {f"$: more than {MOST_DOTS:,} dots in TOML": text.count(".") > MOST_DOTS})
        return cls._read_text(lambda: msgspec.convert(tomllib.loads(text), cls, dec_hook=read_part))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read JSON. Raises the class's ``error`` with the path of the wrong field."""
        return cls._read_text(lambda: msgspec.json.decode(text, type=cls, dec_hook=read_part))

    def checked(self) -> Self:
        """Return an equal document whose types and ranges are checked; Python's constructor checks neither.

        Raises:
            ResNetXFError: the class's ``error``, with the path of the wrong field.
        """
        return self._read_text(
            lambda: msgspec.convert(msgspec.to_builtins(self, enc_hook=_scalar), type(self), dec_hook=read_part)
        )

    @classmethod
    def _read_text(cls, decode: Callable[[], Self]) -> Self:
        try:
            return decode()
        except Exception as error:  # for example RecursionError, or ValueError for an integer of 5,000 digits
            raise cls.error(_path_first(error, cls)) from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a ``.toml`` or ``.json`` file.

        Raises:
            ResNetXFError: the class's ``error``, if the file cannot be read or is malformed. The message names the file
                and the field.
        """
        path = Path(path)
        readers = {".toml": cls.from_toml, ".json": cls.from_json}
        if path.suffix.lower() not in readers:
            raise cls.error(f"{path}: {cls.title} is a .toml or .json file")
        with reading(path, cls.error, cls.title):
            text = read_bytes(path, MOST_BYTES[path.suffix.lower()]).decode("utf-8-sig")
            return readers[path.suffix.lower()](text)


def _complete(value: object) -> object:
    """Return plain data with every field of every struct."""
    if isinstance(value, msgspec.Struct):
        return {name: _complete(getattr(value, name)) for name in value.__struct_fields__}
    return [_complete(item) for item in value] if isinstance(value, tuple) else value


def _scalar(value: object) -> object:
    """Return a NumPy scalar as Python's own; raise TypeError for anything else. NumPy itself is not imported."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected plain data, got {value!r}, a {type(value).__name__}")


def _path_first(error: Exception, cls: type[Document]) -> str:
    """Return msgspec's message with the path in front and the choices at its end.

    ``$.block: invalid enum value 'x'; expected one of basic, bottleneck``.
    """
    what, _, path = str(error).rpartition(" - at ") if " - at `$" in str(error) else (str(error), "", "")
    path = path.strip("`") or "$"
    what = re.sub(r"`str` matching regex .*", "a name of letters, digits, '.', '_' and '-'", what)
    choices = _choices(path, cls) if what.startswith(("Invalid enum", "Object contains unknown")) else ()
    hint = f"; expected one of {', '.join(map(str, choices))}" if choices else ""
    return f"{path}: {what[:1].lower()}{what[1:]}{hint}"


def _choices(path: str, cls: type[Document]) -> tuple[Any, ...]:
    """Return the literals, else the names of the fields, that are allowed at a path as ``$.stages[0].block``."""
    types: list[inspect.Type] = [inspect.type_info(cls)]
    for step in re.findall(r"\w+|\[", path.removeprefix("$")):
        if not step.isdigit():
            types = [inner for outer in types for inner in _inside(outer, step)]
    literals = [value for one in types if isinstance(one, inspect.LiteralType) for value in one.values]
    fields = [field.name for one in types if isinstance(one, inspect.StructType) for field in one.fields]
    return tuple(literals or fields)


def _inside(outer: inspect.Type, step: str) -> list[inspect.Type]:
    """Return the types one step down: of a struct's field, or (step ``[``) of an array's items."""
    inner: list[inspect.Type] = []
    if isinstance(outer, inspect.StructType):
        inner = [field.type for field in outer.fields if field.name == step]
    elif isinstance(outer, inspect.VarTupleType):
        inner = [outer.item_type]
    return [option for one in inner for option in (one.types if isinstance(one, inspect.UnionType) else [one])]
