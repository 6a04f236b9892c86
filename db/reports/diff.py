"""Difference of two versions of a report, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.models import Report

SECTIONS = ("findings", "impression")


@dataclass(frozen=True, slots=True)
class Part:
    """Words of a section that are in both versions, or in one of them only."""

    section: str
    change: str
    text: str


@dataclass(frozen=True, slots=True)
class Diff:
    """Difference of two versions."""

    earlier: int
    later: int
    parts: list[Part]


def between(earlier: Report, later: Report) -> Diff:
    """Return the difference of two versions of one report."""
    parts = [
        part for section in SECTIONS for part in words(section, getattr(earlier, section), getattr(later, section))
    ]
    return Diff(earlier.version, later.version, parts)


def words(section: str, earlier: str, later: str) -> Iterator[Part]:
    """Yield the words of two texts of a section, in the order of the text."""
    old, new = (re.findall(r"\S+", text) for text in (earlier, later))
    for tag, start, end, other_start, other_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            yield Part(section, "equal", " ".join(old[start:end]))
            continue
        if end > start:
            yield Part(section, "removed", " ".join(old[start:end]))
        if other_end > other_start:
            yield Part(section, "added", " ".join(new[other_start:other_end]))
