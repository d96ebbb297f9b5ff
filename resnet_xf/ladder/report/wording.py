"""How numbers and texts stand in pages and files that a report becomes."""

from __future__ import annotations

import re

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write: control characters, lone surrogates, U+FFFE and U+FFFF."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def legal(text: str) -> str:
    """The text with U+FFFD for every character that no XML or HTML may hold."""
    return ILLEGAL.sub("\ufffd", text)


def number(value: float | None) -> str:
    """Three digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.3g}".replace("inf", "∞").replace("nan", "NaN")


def beyond(value: float | None, bound: float | None) -> bool:
    """Whether an error is beyond its bound; one that is not a number is."""
    return value is not None and bound is not None and not value <= bound


def power_of_ten(exponent: int) -> str:
    """As ``10⁻¹²``."""
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"
