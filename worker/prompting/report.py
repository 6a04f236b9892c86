"""The prompt for a report, in the wording that the checkpoint was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.prompting import wording
from worker.prompting.quoting import quotation

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class QuotedCase:
    """A similar earlier case in a prompt: its report, or sentences of it, and its similarity (cosine, -1 to 1)."""

    report: str
    similarity: float


def report_prompt(modality: str, body_part: str, cases: Sequence[QuotedCase] = (), *, version: wording.Version) -> str:
    """Return the prompt for a report; *cases* best first. Of their reports only statements are quoted."""
    image = wording.image_name(modality, body_part)
    chest = image == "chest x-ray"
    task = wording.CHEST_XRAY_REPORT if chest else wording.OTHER_REPORT.format(image=image)
    return f"{wording.ASSISTANT} {wording.REPORT} {task}{_quotations(cases, wording.QUOTATIONS[version])}"


def _quotations(cases: Sequence[QuotedCase], form: wording.Quotations) -> str:
    # Here, so that no text of a case enters a prompt in another way.
    quoted = [(text, case.similarity) for case in cases if (text := quotation(case.report).text)]
    lines = (form.case.format(number=n, similarity=s, text=text) for n, (text, s) in enumerate(quoted, start=1))
    return form.before + form.between.join(lines) + form.after if quoted else ""
