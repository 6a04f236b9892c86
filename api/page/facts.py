"""Status of a report as sentences: an open page compares them with the current ones, and names those that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.page import display, verdicts
from db.states import DisplayedState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from api.v1.schemas import Report
    from db.models import ReportFeedback
    from db.operations.overview import StudyLine

#: Characters that turn the direction of what follows them: facts are plain text, which cannot isolate a value.
_BIDI = dict.fromkeys(map(ord, "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))

NO_REPORT = "There is no report that this reader may see."


def obstacle(line: StudyLine, report: Report | None) -> str:
    """Return why a draft cannot be accepted or copied, even if its reader has seen the status; empty if it can."""
    held = line.state == DisplayedState.HELD or (report is not None and report.hold is not None)
    return "the study is held" if held else ""


def facts(line: StudyLine, report: Report | None, identities: Sequence[StudyLine], reader: str) -> list[str]:
    """Return everything that a reader of a report must know before acting on it, a sentence each: first who is who."""
    found = [*_of_study(line, identities), *(_of_report(report) if report else [NO_REPORT])]
    # Another person may have logged in to this browser since: acts are stored under the new name.
    found.insert(1, f"You read as {reader}.")
    return [fact.translate(_BIDI) for fact in found]


def _of_study(line: StudyLine, identities: Sequence[StudyLine]) -> Iterator[str]:
    who = [display.patient(line), line.patient_id, line.patient_sex]
    named = [*who, display.date(line.patient_birth_date), line.accession_number]
    yield f"Patient: {' · '.join(filter(None, named))}."
    if line.not_read:
        yield f"Not read, because too long in a header: {display.not_read(line)}."
    if line.state == DisplayedState.HELD:
        yield "Held: objects of the study have different identities, and a person must decide."
    elif line.state in {DisplayedState.FAILED, DisplayedState.NOT_REPORTABLE, DisplayedState.CANCELLED}:
        yield f"{display.state(line.state)}: no newer report is written."
    if len(identities) > 1:
        yield f"{len(identities)} identities are under the Study Instance UID."


def _of_report(report: Report) -> Iterator[str]:
    yield f"Version {report.version}, written {display.moment(report.created_at)}, based on {report.basis}."
    if report.outdated:
        yield "Images arrived after the report was written."
    if report.hold:
        yield f"Held by {report.hold.held_by} since {display.moment(report.hold.held_at)}: {report.hold.reason}."
    if report.sentences is not None:
        yield verdicts.standing(report)
    yield from report.limitations


def read_before(acts: Sequence[ReportFeedback], reader: str, version: int) -> int | None:
    """Return the version that *reader* has acted on last, if it is an older one than *version*; else None."""
    own = [act.version for act in acts if act.author == reader]
    latest = max(own, default=0)
    return latest if 0 < latest < version else None
