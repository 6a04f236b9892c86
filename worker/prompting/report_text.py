"""The sections of a report's text: findings and impression, of each part of a study."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_IMPRESSION = re.compile(r"\b(?:impressions?|conclusions?|beurteilung)\s*:", re.IGNORECASE)
_FINDINGS = re.compile(r"^\s*findings?\s*:", re.IGNORECASE)


def split_report(text: str) -> tuple[str, str]:
    """Return findings and impression of a report; a text without headings is all findings."""
    parts = _IMPRESSION.split(text, maxsplit=1)
    findings = _FINDINGS.sub("", parts[0]).strip()
    return findings, parts[1].strip() if len(parts) > 1 else ""


class Section(NamedTuple):
    """Findings and impression of one part of a study, and the part's name."""

    name: str
    findings: str
    impression: str


def joined(sections: Sequence[Section]) -> tuple[str, str]:
    """Return findings and impression of a report; of several sections each below a line with its name."""
    if len(sections) == 1:
        return sections[0].findings, sections[0].impression
    findings = "\n\n".join(f"{section.name}\n{section.findings}" for section in sections if section.findings)
    return findings, "\n\n".join(f"{section.name}\n{section.impression}" for section in sections if section.impression)
