"""Read decimal and integer strings (DS, IS) as people and locales write them (PS3.5 6.2).

Read are blanks around a number and beside its sign, point or exponent, a plus sign, exponents, a decimal comma, and
more than 16 bytes. Not read are words ("nan", "INF"), blanks between digits, and a comma that may separate thousands.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d*(?:[Ee][+-]?\d+)?")
#: One to three digits, of which the first is not zero, a comma and three digits: 1,024 is 1.024 or 1024.
_AMBIGUOUS = re.compile(rb"[+-]?[1-9]\d{0,2},\d{3}")
#: A blank that does not separate two digits. 0xA0 is the no-break space of ISO 8859.
_BLANK = re.compile(rb"(?<!\d)[\s\0\xa0]+|[\s\0\xa0]+(?!\d)")


def number_of(text: bytes) -> float:
    """Return a finite number. Raises ValueError."""
    plain = _BLANK.sub(b"", text)
    if not _NUMBER.fullmatch(plain) or not math.isfinite(number := float(plain)):
        raise ValueError
    return number


def decimal_points(value: bytes, comma_elsewhere: Callable[[], bool]) -> bytes:
    """Return the numbers of *value* with points for decimal commas; ambiguous commas stay, and are no numbers.

    *comma_elsewhere* is called for an ambiguous comma: true if the same object has a comma that is certainly decimal.
    """
    parts = [_BLANK.sub(b"", part) for part in value.split(b"\\")]
    if any(map(_AMBIGUOUS.fullmatch, parts)) and not (has_decimal_comma(value) or comma_elsewhere()):
        return value
    return b"\\".join(part.replace(b",", b".") if _DECIMAL_COMMA.fullmatch(part) else part for part in parts)


def has_decimal_comma(value: bytes) -> bool:
    """Return whether one of the numbers has a comma that can only be decimal."""
    parts = (_BLANK.sub(b"", part) for part in value.split(b"\\"))
    return b"," in value and any(_DECIMAL_COMMA.fullmatch(part) and not _AMBIGUOUS.fullmatch(part) for part in parts)
