"""Course of a study for its page: receipts, versions of the report, and the patient's other studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from api.page import display
from api.v1 import reading
from db.operations.filters import Filters
from db.reports import diff
from db.states import FeedbackKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.access.authenticate import Caller
    from api.v1.schemas import Report
    from db.models import Report as ReportRow
    from db.models import ReportFeedback
    from db.operations.overview import Content, StudyLine

#: Other studies of the patient that are listed.
MAX_OTHERS = 20


class Other(NamedTuple):
    """Another study under the same Patient ID; *doubt* says in which fields its patient differs, else empty."""

    study: StudyLine
    doubt: str


class Change(NamedTuple):
    """A version, or a reader's final text, with the words that differ from the text before."""

    title: str
    parts: Sequence[diff.Part]


def receipts(
    line: StudyLine, content: Content, report: Report | None, acts: Sequence[ReportFeedback]
) -> list[tuple[str, str]]:
    """Return the steps of a study so far, each with its words."""
    plural = "" if content.instances == 1 else "s"
    found = [("Received", f"{content.instances} object{plural}, the last at {display.moment(line.last_received_at)}")]
    if line.settle_reason and line.settled_at:
        found.append(("Complete", f"{line.settle_reason}, at {display.moment(line.settled_at)}"))
    if report:
        found.append((f"Draft v{report.version}", display.moment(report.created_at)))
        read = {act.author: act.at for act in reversed(acts) if act.version == report.version}
        by = "; ".join(f"{author}, {display.moment(at)}" for author, at in read.items())
        found.append(("Read by", by or "no act of a reader is stored"))
    return found


def others(caller: Caller, line: StudyLine) -> list[Other]:
    """Return the newest other studies under the Patient ID of a study; an empty one is nobody's."""
    if not line.patient_id:
        return []
    page = reading.page(caller, limit=MAX_OTHERS + 1, filters=Filters(patient_id=line.patient_id))
    same = [study for study in page.studies if study.study_instance_uid != line.study_instance_uid]
    return [Other(study, _doubt(line, study)) for study in same[:MAX_OTHERS]]


def _doubt(one: StudyLine, other: StudyLine) -> str:
    compared = {
        "name": (display.person(one.patient_name), display.person(other.patient_name)),
        "birth date": (one.patient_birth_date, other.patient_birth_date),
        "sex": (one.patient_sex, other.patient_sex),
        "issuer of the ID": (one.issuer_of_patient_id, other.issuer_of_patient_id),
    }
    return ", ".join(name for name, (mine, its) in compared.items() if mine.casefold() != its.casefold())


def changes(rows: Sequence[ReportRow], acts: Sequence[ReportFeedback]) -> list[Change]:
    """Return the versions, the newest first, each against the one before; before them the final texts of readers."""
    found = [
        Change(f"Version {row.version}, {display.moment(row.created_at)}, {row.basis}", diff.between(before, row).parts)
        for row, before in zip(rows, [*rows[1:], None], strict=True)
        if before is not None
    ]
    known = {row.version: row for row in rows}
    for act in acts:
        if act.kind == FeedbackKind.FINAL and act.sentence is None and act.version in known:
            draft = known[act.version]
            title = f"Final text of {act.author}, {display.moment(act.at)}, against version {act.version}"
            parts = diff.words("findings", f"{draft.findings}\n{draft.impression}", act.text)
            found.insert(0, Change(title, list(parts)))
    first = rows[-1:]
    return found + [
        Change(f"Version {row.version}, {display.moment(row.created_at)}, {row.basis}", []) for row in first
    ]


def viewer_link(template: str | None, line: StudyLine) -> str:
    """Return the address of a study in the site's viewer; empty without a template, or if it needs an empty value."""
    values = {"study_instance_uid": line.study_instance_uid, "accession_number": line.accession_number}
    if not template or any(f"{{{name}}}" in template and not value for name, value in values.items()):
        return ""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", quote(value, safe=""))
    return template
