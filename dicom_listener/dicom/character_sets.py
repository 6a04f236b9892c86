"""Decode text elements by Specific Character Set, code extensions by ISO 2022 included (PS3.5 6.1.2, PS3.3 C.12.1.1.2).

Bytes that have no meaning in the declared character sets become U+FFFD, so that a reader sees that a name is not
complete; a name in wrong letters looks like another patient. pydicom's decoder is not used: it leaves the escapes of
ISO IR 58 in the text and reads unknown character sets as Latin-1.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class _Set:
    """One character set: its Python codec, and the bytes that the codec expects before a character."""

    codec: str
    width: int = 1
    prefix: bytes = b""

    def decode(self, character: bytes) -> str:
        # The codec has the sets of the lower half in the upper one.
        encoded = bytes(byte | 0x80 for byte in character) if self.codec == "euc_jp" else character
        try:
            return (self.prefix + encoded).decode(self.codec)
        except UnicodeDecodeError:
            return UNDECODABLE


_UNKNOWN, _UNKNOWN_WIDE = _Set("unknown"), _Set("unknown", 2)
_ASCII, _ROMAJI, _KATAKANA = _Set("ascii"), _Set("romaji"), _Set("katakana")
_JIS_X_0208, _JIS_X_0212 = _Set("euc_jp", 2), _Set("euc_jp", 2, b"\x8f")
#: Windows' superset of KS X 1001: Korean systems label it so.
_KS_X_1001, _GB_2312 = _Set("cp949", 2), _Set("gb2312", 2)
#: Sets of the upper half by ISO-IR number, with the final byte of their escape sequence.
_UPPER = {
    "100": ("A", "iso8859_1"), "101": ("B", "iso8859_2"), "109": ("C", "iso8859_3"), "110": ("D", "iso8859_4"),
    "126": ("F", "iso8859_7"), "127": ("G", "iso8859_6"), "138": ("H", "iso8859_8"), "144": ("L", "iso8859_5"),
    "148": ("M", "iso8859_9"), "166": ("T", "tis_620"), "203": ("b", "iso8859_15"),
}  # fmt: skip
#: Sets that a defined term names for the lower (G0) and the upper half (G1) of the code table.
_TERMS: dict[str, tuple[_Set, _Set | None]] = {
    "": (_ASCII, None),
    "6": (_ASCII, None),
    "13": (_ROMAJI, _KATAKANA),
    "14": (_ROMAJI, None),
    "58": (_ASCII, _GB_2312),
    "87": (_ASCII, None),
    "149": (_ASCII, _KS_X_1001),
    "159": (_ASCII, None),
    **{number: (_ASCII, _Set(codec)) for number, (_, codec) in _UPPER.items()},
}
_LOWER_HALF, _UPPER_HALF = 0, 1
#: Escape sequences: the half that they designate and its set (PS3.3 tables C.12-3 and C.12-4).
_ESCAPES: dict[bytes, tuple[int, _Set]] = {
    b"(B": (_LOWER_HALF, _ASCII),
    b"(J": (_LOWER_HALF, _ROMAJI),
    b"(I": (_LOWER_HALF, _KATAKANA),
    b")I": (_UPPER_HALF, _KATAKANA),
    b"$@": (_LOWER_HALF, _JIS_X_0208),
    b"$B": (_LOWER_HALF, _JIS_X_0208),
    b"$(D": (_LOWER_HALF, _JIS_X_0212),
    b"$)A": (_UPPER_HALF, _GB_2312),
    b"$)C": (_UPPER_HALF, _KS_X_1001),
    **{b"-" + final.encode(): (_UPPER_HALF, _Set(codec)) for final, codec in _UPPER.values()},
}
_ESCAPE = re.compile(rb"\x1b([ -/]*[0-~]?)")
#: Character sets without code extensions: every byte of a value belongs to them.
_WHOLE = {"192": "utf_8", "GB18030": "gb18030", "GBK": "gb18030", "GB2312": "gb18030", "UTF8": "utf_8"}
_TERM = re.compile(r"ISO[ _-]*(?:2022)?[ _-]*IR[ _-]*([0-9]+)")
_LATIN_1 = "100"
#: Delimiters before which code extensions end (PS3.5 6.1.2.5.3), those of a person name besides.
_DELIMITERS, _NAME_DELIMITERS = frozenset(b"\\\t\n\f\r"), frozenset(b"\\\t\n\f\r^=")
#: Signs of Latin-1 that are no part of a name: text of another character set is labelled as Latin-1.
_NO_LETTERS = re.compile("[\u00a1-\u00a9\u00ab-\u00b3\u00b5\u00b6\u00b8\u00b9\u00bb-\u00bf\u00d7\u00f7]")
#: Characters that no line of text contains: controls, surrogates, line separators, directional overrides.
_CONTROLS = re.compile("[\x00-\x1f\x7f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_C1_CONTROLS = re.compile("[\x80-\x9f]")


def decode(value: bytes, specific_character_set: bytes, *, person_name: bool = False) -> str:
    """Return the text of an element on one line; control characters are removed, undecodable bytes are U+FFFD."""
    terms = [_normalized(term) for term in specific_character_set.decode("latin-1").split("\\")]
    if value.isascii() and b"\x1b" not in value and terms[0] not in {"13", "14"}:
        text = value.decode("ascii")
    else:
        text = _whole(value, terms) or "".join(
            _characters(value, _initial(terms), _NAME_DELIMITERS if person_name else _DELIMITERS)
        )
    if person_name and terms[0] == _LATIN_1:
        text = _NO_LETTERS.sub(UNDECODABLE, text)
    return without_controls(_C1_CONTROLS.sub(UNDECODABLE, text)).strip()


def without_controls(text: str) -> str:
    """Return *text* without the characters that no line contains; PostgreSQL refuses NUL and surrogates."""
    return _CONTROLS.sub("", text)


def _normalized(term: str) -> str:
    """Return the number of a defined term, or its name in upper case: equipment writes ISO-IR 100 and ISO IR 192."""
    term = term.strip("\0 ").upper()
    found = _TERM.fullmatch(term)
    return found[1].lstrip("0") if found else term.replace("-", "").replace("_", "").replace(" ", "")


def _whole(value: bytes, terms: list[str]) -> str | None:
    """Decode a value whose character set has no code extensions; None if it has."""
    codecs = [_WHOLE[term] for term in terms if term in _WHOLE]
    # Much text under Latin-1 or no character set is UTF-8; no name in Latin-1 is also valid UTF-8.
    if all(term in {_LATIN_1, "6", ""} or term not in _TERMS for term in terms):
        codecs.append("utf_8")
    if b"\x1b" not in value:
        for codec in codecs:
            with suppress(UnicodeDecodeError):
                return value.decode(codec)
    if terms[0] not in _WHOLE:
        return None
    return _ESCAPE.sub(UNDECODABLE.encode(_WHOLE[terms[0]]), value).decode(_WHOLE[terms[0]], "replace")


def _initial(terms: list[str]) -> tuple[_Set, _Set | None]:
    """Return the sets at the beginning; without one for the upper half, that of the only term that has one."""
    lower, upper = _TERMS.get(terms[0], (_ASCII, None))
    others = {found[1] for term in terms[1:] if (found := _TERMS.get(term)) and found[1]}
    return lower, upper or (others.pop() if len(others) == 1 else None)


def _characters(value: bytes, initial: tuple[_Set, _Set | None], delimiters: frozenset[int]) -> Iterator[str]:
    (lower, upper), position = initial, 0
    while position < len(value):
        byte = value[position]
        if byte == 0x1B and (escape := _ESCAPE.match(value, position)):  # noqa: PLR2004 - ESC
            half, found = _ESCAPES.get(escape[1], _undefined(escape[1]))
            lower, upper = (found, upper) if half == _LOWER_HALF else (lower, found)
            if found.codec == "unknown":
                yield UNDECODABLE
            position = escape.end()
            continue
        if lower.width == 1 and byte in delimiters:
            # Writers that forget the escape after a delimiter mean the last set, if none is defined there.
            lower, upper = initial[0], initial[1] or upper
        current = lower if byte < 0x80 else upper or _UNKNOWN  # noqa: PLR2004 - halves of the code table
        # Controls and space are one byte in every set.
        character = value[position : position + (current.width if byte > 0x20 else 1)]  # noqa: PLR2004
        text = _decoded(current, character)
        # A byte of the lower half does not complete a character of the upper one.
        lone = text == UNDECODABLE and byte >= 0x80 > character[-1]  # noqa: PLR2004
        yield text
        position += 1 if lone else len(character)


def _undefined(escape: bytes) -> tuple[int, _Set]:
    """Return the half that an unknown escape sequence designates, with an unknown set of its width."""
    wide = escape.startswith(b"$")
    upper = escape.removeprefix(b"$")[:1] in {b")", b"-", b"*", b"+", b".", b"/"}
    return (_UPPER_HALF if upper else _LOWER_HALF), (_UNKNOWN_WIDE if wide else _UNKNOWN)


def _decoded(current: _Set, character: bytes) -> str:
    """Return one character; half-width katakana and JIS Roman have no codec of their own."""
    byte = character[0]
    if current.codec == "katakana":
        return chr(0xFF61 + (byte | 0x80) - 0xA1) if 0xA1 <= byte | 0x80 <= 0xDF else UNDECODABLE  # noqa: PLR2004
    if current.codec == "romaji" or byte <= 0x20:  # noqa: PLR2004 - controls and space are in every set
        return "\N{OVERLINE}" if byte == 0x7E else chr(byte)  # noqa: PLR2004 - 5C stays the delimiter
    return UNDECODABLE if current.codec == "unknown" else current.decode(character)
