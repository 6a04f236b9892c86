"""Checks of a text against the quoted cases and the image: unsupported and critical findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.findings.labeller import present
from worker.grounding.checks.contradictions import GENERIC
from worker.grounding.checks.draft import DraftPart, NotApplicable, phrase

if TYPE_CHECKING:
    from worker.findings.labeller import Label

#: Findings of which a person must be told at once.
CRITICAL = frozenset({
    "pneumothorax", "hydropneumothorax", "pneumomediastinum", "free air", "subdural haematoma", "haemorrhage",
    "infarct", "hydrocephalus", "midline shift", "bleeding",
})  # fmt: skip


def supported(part: DraftPart) -> list[str] | NotApplicable:
    """Find affirmed findings that no quoted case affirms and the image was not measured to show."""
    if not part.quoted:
        return NotApplicable("no similar earlier case was found")
    cases = [present(report) for report in part.quoted]
    alone = [label for label in part.affirmed() if label.finding not in GENERIC and not _in_cases(label, cases)]
    names = dict.fromkeys(phrase(label) for label in alone if not _is_shown(part, label))
    return [f"No quoted case affirms {name}, and it is not measured in the image." for name in names]


def _in_cases(label: Label, cases: list[set[Label]]) -> bool:
    return any(other.finding == label.finding and _same(other, label) for case in cases for other in case)


def _is_shown(part: DraftPart, label: Label) -> bool:
    return any(name == label.finding and label.side in ("", side) for name, side in part.in_image or ())


def _same(other: Label, label: Label) -> bool:
    return label.side in ("", other.side) and (not label.zone or other.zone in ("", label.zone))


def critical(part: DraftPart) -> list[str]:
    """Name the critical findings of the text, affirmed or uncertain."""
    names = sorted({" ".join(filter(None, (label.side, label.finding))) for label in _told(part)})
    return [f"Critical finding: {name}." for name in names]


def critical_omitted(part: DraftPart) -> list[str] | NotApplicable:
    """Find critical findings that the image was measured to show and the text neither affirms nor suspects."""
    if part.in_image is None:
        return NotApplicable("nothing was measured in the images")
    omitted = [
        " ".join(filter(None, (side, name)))
        for name, side in part.in_image
        if name in CRITICAL and not _tells(part, name, side)
    ]
    return [f"The image suggests a critical finding that the text omits: {name}." for name in sorted(omitted)]


def _told(part: DraftPart) -> list[Label]:
    return [label for label in part.labels() if label.certainty != "absent" and label.finding in CRITICAL]


def _tells(part: DraftPart, name: str, side: str) -> bool:
    sides = {label.side for label in _told(part) if label.finding == name}
    # A sentence without a side, as in many impressions, counts only if no other names one.
    return bool(sides) and (not side or side in sides or sides == {""})
