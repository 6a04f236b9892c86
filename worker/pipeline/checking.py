"""Check a draft, and withhold it if the site says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import NotReportable, Reason
from worker.grounding.checks.draft import DraftPart
from worker.grounding.checks.results import is_critical, results, withholding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from db.reports.grounds import Grounds
    from db.reports.versions import CheckResult
    from db.states import Check
    from worker.pipeline.part import Part
    from worker.prompting.report_text import Section


def checked(
    parts: Sequence[Part], sections: Sequence[Section], grounds: Sequence[Grounds], patient_sex: str
) -> list[CheckResult]:
    """Return the results of all checks; *sections* are the texts of the *parts*, *grounds* theirs."""
    of_parts = zip(parts, sections, grounds, strict=True)
    return results([_part(part, text, rest, patient_sex) for part, text, rest in of_parts if part.generated])


def shown_nevertheless(checks: Sequence[CheckResult], blocking: Collection[Check]) -> list[str]:
    """Return the sentence of a draft that fails a *blocking* check and is shown, because a finding is critical.

    Raises NotReportable if the draft must be withheld. Its detail names the checks and no word of the text.
    """
    failed = ", ".join(withholding(checks, blocking))
    if not failed:
        return []
    if not is_critical(checks):
        raise NotReportable(Reason.CHECK_FAILED, f"the draft is withheld, because it failed the check {failed}")
    return [f"Shown although it failed a check that withholds drafts here ({failed}): a finding is critical."]


def _part(part: Part, section: Section, grounds: Grounds, patient_sex: str) -> DraftPart:
    images, picture = part.images.images, part.picture()
    return DraftPart(
        section.findings,
        section.impression,
        name=section.name,
        modality=part.images.modality,
        body_part=part.images.body_part,
        cut_off=part.finish_reason != "stop",
        lateralities=[image.laterality for image in images],
        views=[image.view for image in images],
        patient_sex=patient_sex,
        resembled_part=(part.retrieval.ood and part.retrieval.ood.resembled_part) or "",
        stated=[one for sentence in grounds.sentences for one in sentence.findings] if part.quoted else None,
        in_image={(score.finding, score.side) for score in picture.omitted(())} if picture.labels else None,
    )
