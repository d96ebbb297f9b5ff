"""Damage to files, drawn from a seed: to bytes, to the numbers and texts in TOML, and to the values in JSON."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

INTEGERS = (0, 1, -1, 2, 127, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**62, 2**63 - 1, 2**64 - 1)

TEXTS = (
    "", " ", "a\nresnet-xf: all is well", "\x1b[2J", "\u202egnp.exe", "\x00", "../../etc/passwd", "a" * 5000, "'", '"',
    "ÿ", "１２", "nan", "True", "folder:/nowhere", "\ud800", "%s{0}", "-1", "0", "1e999", "()", "(0, 0)", "[1]", "null",
)  # fmt: skip

NUMBERS = (
    "0", "-1", "1", "2", "3", "1.5", "-0.0", "1e-320", "1e-30", "0.999999", "1e30", "1e308", "-1e308", "nan", "inf", "-inf",
    "1000000", "1000001", "10000", "2000", "9223372036854775807", "9223372036854775808", "1" + "0" * 30, "9" * 5000,
    "0x7f", "1_000", "true", "[]", "{}", '"x"', "1979-05-27", "'''", "[1, 2]", "[[1]]",
)  # fmt: skip
"""As TOML writes them; some are none."""


def damaged(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return the bytes after one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTES)(data, others, rng)[: 2**20]
    return data


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[_place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _integer(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    layout = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    value = rng.choice(INTEGERS) % 256 ** struct.calcsize(layout)
    at = _place(data, rng) // (step := rng.choice((1, 1, 4))) * step
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 64)) :]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    new = rng.choice(
        (rng.randbytes(rng.choice((1, 4, 64))), bytes(64), b"[" * 2000, rng.choice(TEXTS).encode("utf-8", "replace"))
    )
    return data[:at] + new + data[at:]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    part = data[at : at + rng.choice((1, 8, 64, 1000))]
    return data[:at] + part * rng.choice((2, 10, 100)) + data[at:]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    at, begin = _place(data, rng), _place(other, rng)
    return data[:at] + other[begin : begin + rng.choice((8, 64, 10**6))] + data[at + rng.choice((0, 8, 64)) :]


def _fill(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((4, 16, 256))
    return data[:at] + rng.choice((b"\0", b"\xff", b"\x80")) * size + data[at + size :]


def _place(data: Sequence[int], rng: random.Random) -> int:
    """A place, often in the header."""
    size = max(1, len(data))
    return rng.randrange(min(size, 64)) if rng.random() < 0.4 else rng.randrange(size)


BYTES: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _flip, _integer, _integer, _cut, _remove, _insert, _repeat, _splice, _fill,
)  # fmt: skip

TOKEN = re.compile(r'"[^"\n]*"|-?\d[\d._e+-]*|\b[a-z_]+\b|[\[\]{}=,]')


def damaged_toml(text: str, rng: random.Random) -> str:
    """Return TOML after one to three changes of a number, a text, a name, a sign or a line."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = _tokens(text)
        if not tokens or rng.random() < 0.2:
            lines = text.split("\n")
            at = rng.randrange(len(lines))
            lines[at : at + 1] = rng.choice(
                ([], [lines[at]] * 2, [lines[at]] * 200, ["[" * 300], [".".join("a" * 300)])
            )
            text = "\n".join(lines)
            continue
        start, end = rng.choice(tokens)
        new = rng.choice(NUMBERS)
        if rng.random() < 0.3:
            new = json.dumps(rng.choice(TEXTS))
        elif rng.random() < 0.2:
            new = text[slice(*rng.choice(tokens))]
        text = text[:start] + new + text[end:]
    return text


@lru_cache(maxsize=16)
def _tokens(text: str) -> list[tuple[int, int]]:
    return [token.span() for token in TOKEN.finditer(text)]


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1.5, 1e-320, 1e308, -1e308, 10**6, 2**31, 2**53 + 1, 2**63, 10**30, "", [], {},
    [[]], {"a": 1}, [1, 2], [1, 2, 3], [0, 0], [-1, -1], [10**6, 10**6], "NaN", float("nan"), float("inf"),
)  # fmt: skip


def damaged_json(text: str, rng: random.Random) -> Any:
    """Return the data of a JSON text after one to three changes of a value or of what an object or a list holds."""
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = _place_in(data, rng)
        match rng.randrange(8):
            case _ if key is None:
                return rng.choice(VALUES)
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(TEXTS)] = holder[key]
            case 1:
                holder.extend([holder[key]] * rng.choice((1, 2, 1000)))
            case 2:
                holder[key] = rng.choice(TEXTS)
            case 3:
                other, name = _place_in(json.loads(text), rng)
                holder[key] = other[name]
            case 4:
                for _ in range(rng.choice((1, 50, 900))):
                    holder[key] = [holder[key]]
            case _:
                old = holder[key]
                number = isinstance(old, int | float) and not isinstance(old, bool) and rng.random() < 0.5
                holder[key] = rng.choice((old + 1, -old, old * 2, old / 3)) if number else copy.copy(rng.choice(VALUES))
    return data


def _place_in(data: Any, rng: random.Random) -> tuple[Any, Any]:
    """A place in plain data: the object or list that holds a value, and its key; the key is None if it holds none."""
    holder, key = data, None
    while isinstance(data, dict | list) and data and (key is None or rng.random() < 0.8):
        holder, key = data, rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
        data = data[key]
    return holder, key


def as_json(data: Any, rng: random.Random) -> bytes:
    """Return the text of plain data; now and then it has a second key of the same name, or its bytes are damaged."""
    try:
        text = json.dumps(data, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    except RecursionError:
        text = b'{"a":' * 10**4
    if rng.random() < 0.05 and text.startswith(b"{"):
        text = b"{" + text[1:-1] + b"," + text[1:]
    return damaged(text, [text], rng) if rng.random() < 0.1 else text
