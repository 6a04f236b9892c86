"""The prompt for a report, in the wording that the checkpoint was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.prompting import wording
from worker.prompting.plain_text import FENCE, as_label
from worker.prompting.quoting import quotation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.prompting.quoting import Quotation

    Quote = Callable[[str], Quotation]


@dataclass(frozen=True, slots=True)
class QuotedCase:
    """A similar earlier case in a prompt: its report, or sentences of it, and its similarity (cosine, -1 to 1)."""

    report: str
    similarity: float


@dataclass(frozen=True, slots=True)
class SpecialistDraft:
    """A text about the images of the study by a specialist model: `case 0`; *source* is the name of the model."""

    source: str
    text: str


def report_prompt(
    modality: str,
    body_part: str,
    cases: Sequence[QuotedCase] = (),
    *,
    draft: SpecialistDraft | None = None,
    version: wording.Version,
    quote: Quote = quotation,
) -> str:
    """Return the prompt for a report; *cases* best first. Of their reports, and of *draft*, statements are quoted.

    *quote* is `quotation`, or the same with a cache.
    """
    image = wording.image_name(modality, body_part)
    chest = image == "chest x-ray"
    task = wording.CHEST_XRAY_REPORT if chest else wording.OTHER_REPORT.format(image=image)
    form = wording.QUOTATIONS[version]
    return f"{wording.ASSISTANT} {wording.REPORT} {task}{_draft(draft, form, quote)}{_quotations(cases, form, quote)}"


def _draft(draft: SpecialistDraft | None, form: wording.Quotations, quote: Quote) -> str:
    quoted = quote(draft.text).text if draft else ""
    if draft is None or not quoted:
        return ""
    return form.draft.format(source=as_label(draft.source).translate(FENCE) or "unknown", text=quoted)


def _quotations(cases: Sequence[QuotedCase], form: wording.Quotations, quote: Quote) -> str:
    # Here, so that no text of a case enters a prompt in another way.
    quoted = [(text, case.similarity) for case in cases if (text := quote(case.report).text)]
    lines = (form.case.format(number=n, similarity=s, text=text) for n, (text, s) in enumerate(quoted, start=1))
    return form.before + form.between.join(lines) + form.after if quoted else ""
