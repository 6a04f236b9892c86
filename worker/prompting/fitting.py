"""Fit quoted cases and diagnoses into the context of a model: those of the least similar cases are left out first.

Tokens are counted by the model's own tokenizer, given as a function.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.prompting.diagnosis import Guidance
from worker.prompting.quoting import quotation, shortened
from worker.prompting.report import QuotedCase, SpecialistDraft, report_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.prompting.wording import Version

#: Warnings beside a case, listed in docs/report-sentences.md.
SUSPICIOUS = "text that resembles instructions to a model was not given to it"
TOO_LONG = "not given to the model: the prompt would be too long"
NO_STATEMENT = "not given to the model: no sentence of its report states a finding"


@dataclass(frozen=True, slots=True)
class Subject:
    """Version of the wording, modality and body part of a prompt for a report."""

    version: Version
    modality: str
    body_part: str

    def prompt(self, cases: Sequence[QuotedCase] = (), draft: SpecialistDraft | None = None) -> str:
        """Return the prompt with *cases*, best first, and the draft of a specialist model for the study."""
        return report_prompt(self.modality, self.body_part, cases, draft=draft, version=self.version)


@dataclass(frozen=True, slots=True)
class QuotedText:
    """Text of a case or draft in a prompt, empty if it is not quoted there, and warnings for the reader."""

    text: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt and, for each given case and the given draft, its text there."""

    prompt: str
    quoted: Sequence[QuotedText] = ()
    draft: QuotedText = QuotedText("")


def fitted(
    subject: Subject,
    cases: Sequence[QuotedCase],
    *,
    draft: SpecialistDraft | None = None,
    tokens: Callable[[str], int],
    fits: Callable[[str], bool],
) -> Fitted:
    """Return the prompt with as many of *cases*, best first, as fit; *draft* gives way last.

    *tokens* counts the tokens of a text; *fits* returns whether a prompt with its images leaves room for the answer.
    """
    # The draft, then the cases: as they stand in the prompt.
    quoted = [_quoted(text, tokens) for text in (draft.text if draft else "", *(case.report for case in cases))]

    def prompt() -> str:
        pairs = zip(quoted[1:], cases, strict=True)
        own = SpecialistDraft(draft.source, quoted[0].text) if draft else None
        return subject.prompt([QuotedCase(one.text, case.similarity) for one, case in pairs], own)

    for number in reversed(range(len(quoted))):
        if fits(prompt()):
            break
        if quoted[number].text:
            quoted[number] = QuotedText("", (*quoted[number].warnings, TOO_LONG))
    return Fitted(prompt(), quoted[1:], quoted[0] if draft else QuotedText(""))


def fitted_guidance(guidance: Guidance, *, prompt: Callable[[Guidance], str], fits: Callable[[str], bool]) -> Guidance:
    """Return as much of *guidance* as fits: diagnoses of the least similar cases are left out first."""
    similar, specialists = list(guidance.similar_cases), list(guidance.specialists)
    while (similar or specialists) and not fits(prompt(Guidance(similar, specialists))):
        (similar or specialists).pop()
    return Guidance(similar, specialists)


def prompt_digest(prompt: str) -> str:
    """Return the SHA-256 of a prompt, by which a rebuilt one is compared: stored instead of words of other patients."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _quoted(report: str, tokens: Callable[[str], int]) -> QuotedText:
    found = quotation(report)
    short = shortened(found, tokens)
    problem = "" if short.sentences else TOO_LONG if found.sentences else NO_STATEMENT
    return QuotedText(short.text, tuple(filter(None, (SUSPICIOUS if found.suspicious else "", problem))))
