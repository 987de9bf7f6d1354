"""Symbols as they can be seen and lined up in a terminal."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len


def visible(symbol: str) -> str:
    """``symbol`` without what cannot be seen: a blank as ``␣``, a control or other space as its
    code point in hexadecimal, a combining mark on a dotted circle."""
    if symbol == " ":
        return "␣"
    if any(unicodedata.category(c)[0] in "CZ" for c in symbol):
        return code_points(symbol)
    if unicodedata.category(symbol[0])[0] == "M":
        return "◌" + symbol  # a mark needs something to stand on
    return symbol


def code_points(symbol: str) -> str:
    """Its code points in hexadecimal."""
    return " ".join(f"{ord(c):04X}" for c in symbol)


def flush_left(text: str, width: int) -> str:
    """``text`` and blanks up to ``width`` cells of a terminal, some characters being two wide."""
    return text + " " * (width - cell_len(text))


def flush_right(text: str, width: int) -> str:
    """As :func:`flush_left`, with the blanks first."""
    return " " * (width - cell_len(text)) + text
