"""Checks of a text against the quoted cases and the image: unsupported and critical findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.grounding.checks.contradictions import GENERIC
from worker.grounding.checks.draft import DraftPart, NotApplicable

if TYPE_CHECKING:
    from db.reports.grounds import GroundedFinding
    from worker.findings.labeller import Label

#: Findings of which a person must be told at once.
CRITICAL = frozenset({
    "pneumothorax", "hydropneumothorax", "pneumomediastinum", "free air", "subdural haematoma", "haemorrhage",
    "infarct", "hydrocephalus", "midline shift", "bleeding",
})  # fmt: skip


def supported(part: DraftPart) -> list[str] | NotApplicable:
    """Find affirmed findings that cite no case that affirms them and that the image was not measured to show."""
    if part.stated is None:
        return NotApplicable("no similar earlier case was found")
    affirmed = [one for one in part.stated if one.certainty == "present" and one.name not in GENERIC]
    alone = [one for one in affirmed if all(case.stance != "affirms" for case in one.cited) and not _is_shown(one)]
    names = dict.fromkeys(" ".join(filter(None, (one.side, one.zone, one.name))) for one in alone)
    return [f"No quoted case affirms {name}, and it is not measured in the image." for name in names]


def _is_shown(finding: GroundedFinding) -> bool:
    return finding.in_image is not None and finding.in_image.score >= finding.in_image.threshold


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
