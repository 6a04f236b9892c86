"""The table of checks, and the results for a draft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.reports.versions import CheckResult
from db.states import Check, CheckState
from worker.grounding.checks import against_headers, contradictions, evidence, words
from worker.grounding.checks.draft import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.grounding.checks.draft import CheckFunction, DraftPart

CHECKS: Mapping[Check, CheckFunction] = {
    Check.SECTIONS: contradictions.sections_agree,
    Check.NEGATIONS: contradictions.negations_agree,
    Check.SIZES: contradictions.sizes_agree,
    Check.SIDE_AND_VIEW: against_headers.side_and_view,
    Check.SEX: against_headers.sex,
    Check.BODY_PART: against_headers.body_part,
    Check.PRIOR: words.prior,
    Check.REPETITION: words.repetition,
    Check.TRUNCATION: words.truncation,
    Check.IMPRESSION: words.impression,
    Check.IDENTIFYING: words.identifying,
    Check.SUPPORT: evidence.supported,
    Check.CRITICAL: evidence.critical,
    Check.CRITICAL_OMITTED: evidence.critical_omitted,
}
#: Checks that name something and find no fault.
NOTICES = frozenset({Check.CRITICAL})
NOT_READ = "the model has not read the images"


def results(parts: Sequence[DraftPart]) -> list[CheckResult]:
    """Return the result of every check for a draft; *parts* are those that the model has read."""
    return [_result(check, function, parts) for check, function in CHECKS.items()]


def _result(check: Check, function: CheckFunction, parts: Sequence[DraftPart]) -> CheckResult:
    found = [(part, function(part)) for part in parts]
    made = [(part, outcome) for part, outcome in found if not isinstance(outcome, NotApplicable)]
    sentences = [_of_part(part, sentence, parts) for part, outcome in made for sentence in outcome]
    if sentences:
        return CheckResult(check, CheckState.NOTICE if check in NOTICES else CheckState.WARNING, sentences)
    missing = [(part, outcome.reason) for part, outcome in found if isinstance(outcome, NotApplicable)]
    if not made:
        reasons = dict.fromkeys(reason for _, reason in missing)
        return CheckResult(check, CheckState.NOT_APPLICABLE, list(reasons) or [NOT_READ])
    if missing:
        # A part that was not checked has not passed.
        reasons_of_parts = [_of_part(part, reason, parts) for part, reason in missing]
        return CheckResult(check, CheckState.NOT_APPLICABLE, reasons_of_parts)
    return CheckResult(check, CheckState.PASSED)


def _of_part(part: DraftPart, sentence: str, parts: Sequence[DraftPart]) -> str:
    return f"{part.name}: {sentence}" if len(parts) > 1 and part.name else sentence


def withholding(found: Sequence[CheckResult], blocking: Collection[Check]) -> list[str]:
    """Return the names of those of a site's *blocking* checks that failed."""
    return [result.name for result in found if result.name in blocking and result.state == CheckState.WARNING]


def is_critical(found: Sequence[CheckResult]) -> bool:
    """Return whether the text or the image has a critical finding, so that the draft must not be withheld."""
    critical = {Check.CRITICAL, Check.CRITICAL_OMITTED}
    return any(r.name in critical and r.state in (CheckState.NOTICE, CheckState.WARNING) for r in found)
