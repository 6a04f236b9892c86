"""The draft of a specialist model in the prompt of a report, case 0: which one, what the prompt held, what readers see.

It is data from outside, quoted as the report of an earlier case is. Unlike these it is about the same images, and is no
evidence: no finding is supported by it, and no check counts it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from worker.prompting.report import SpecialistDraft

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.reports.versions import QuotedDraft
    from worker.pipeline.part import Part

#: Warnings beside a draft, and limitations; listed in docs/report-sentences.md.
SEVERAL_PARTS = "not given to the model: the study has several parts, and a draft does not name one"
NOT_READ = "not given to the model: it did not read the images"
GIVEN = (
    "The model received a draft of a specialist model, case 0: what both state is one opinion and not two. Verify every"
    " finding against the images."
)
#: Before each warning.
CASE_0 = "Draft of a specialist model"


def given(drafts: Sequence[QuotedDraft], *, alone: bool) -> SpecialistDraft | None:
    """Return the draft for the prompt of a part, the latest; *alone* if the study has no other part."""
    if not drafts or not alone:
        return None
    return SpecialistDraft(f"{drafts[0].name} {drafts[0].version}", drafts[0].text)


def of_report(drafts: Sequence[QuotedDraft], parts: Sequence[Part]) -> QuotedDraft | None:
    """Return the latest draft with what the prompt of the report held of it; None without one."""
    if not drafts:
        return None
    if len(parts) > 1:
        return replace(drafts[0], warnings=[SEVERAL_PARTS])
    if parts[0].request is None:
        return replace(drafts[0], warnings=[NOT_READ])
    held = parts[0].prompt.draft
    return replace(drafts[0], quoted=held.text, warnings=list(held.warnings))


def limitations(drafts: Sequence[QuotedDraft], draft: QuotedDraft | None) -> Iterator[str]:
    """Yield the sentences about *draft*, that of the report, and about the other *drafts*."""
    if draft is None:
        return
    if draft.quoted:
        yield GIVEN
    yield from (f"{CASE_0}: {warning}." for warning in draft.warnings)
    if others := len(drafts) - 1:
        plural = "s of specialist models were" if others > 1 else " of a specialist model was"
        yield f"{others} other draft{plural} not given to the model: only the latest one is."


def provenance(draft: QuotedDraft | None) -> dict[str, Any] | None:
    """Return what identifies the draft of a report; keys are published by the API: stable."""
    if draft is None:
        return None
    digest = hashlib.sha256(draft.text.encode()).hexdigest()
    named = {"name": draft.name, "version": draft.version, "source": draft.source}
    return {**named, "sha256": digest, "given": bool(draft.quoted)}
