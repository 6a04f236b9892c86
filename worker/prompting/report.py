"""The prompt for a report, and the sections of a report's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from worker.prompting import wording

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Longest excerpt of one retrieved case, in characters: three of them stay a small part of 4096 tokens.
MAX_EXCERPT_CHARACTERS = 400
_IMPRESSION = re.compile(r"\b(?:impressions?|conclusions?|beurteilung)\s*:", re.IGNORECASE)
_FINDINGS = re.compile(r"^\s*findings?\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QuotedCase:
    """A similar earlier case in a prompt: its report, and its similarity (cosine, -1 to 1)."""

    report: str
    similarity: float


def report_prompt(modality: str, body_part: str, cases: Sequence[QuotedCase] = ()) -> str:
    """Return the prompt for a report; *cases* best first."""
    image = wording.image_name(modality, body_part)
    chest = image == "chest x-ray"
    task = wording.CHEST_XRAY_REPORT if chest else wording.OTHER_REPORT.format(image=image)
    return " ".join((wording.ASSISTANT, wording.REPORT, task, *_quotations(cases)))


def _quotations(cases: Sequence[QuotedCase]) -> list[str]:
    if not cases:
        return []
    quoted = (f"({number}, {case.similarity:.2f}) {excerpt(case.report)}" for number, case in enumerate(cases, start=1))
    return [wording.SIMILAR_REPORTS, *quoted]


def excerpt(text: str) -> str:
    """Return the quoted part of a case's report: its impression, or the complete report without one."""
    _, impression = split_report(text)
    words = " ".join((impression or text).split())
    if len(words) <= MAX_EXCERPT_CHARACTERS:
        return words
    return words[: MAX_EXCERPT_CHARACTERS - 3].rsplit(" ", 1)[0] + "..."


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
