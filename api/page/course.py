"""Course of a study for its page: receipts, versions of the report, and the patient's other studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from api.errors import Forbidden, NotFound
from api.page import display, facts
from api.v1 import reading
from db.operations.filters import Filters
from db.reports import diff, feedback, versions
from db.states import FeedbackKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from api.access.authenticate import Caller
    from api.v1.schemas import Report
    from db.models import Report as ReportRow
    from db.models import ReportFeedback
    from db.operations.overview import Content, StudyLine
    from db.settings import Settings

#: Other studies of the patient that are listed.
MAX_OTHERS = 20
#: Scope of the work list, which other studies of the patient are a part of.
LIST = "worklist"


class Other(NamedTuple):
    """Another study under the same Patient ID; *doubt* says in which fields its patient differs, else empty."""

    study: StudyLine
    doubt: str


class Others(NamedTuple):
    """The newest other studies of a patient; *more*: there may be older ones."""

    studies: list[Other]
    more: bool


class Change(NamedTuple):
    """A version, or a reader's final text (0), with the words that differ from the text before."""

    title: str
    parts: Sequence[diff.Part]
    version: int = 0


class Beside(NamedTuple):
    """Another study of a patient with its report, shown beside the first one; *sealed*: without its text."""

    study: StudyLine
    doubt: str
    report: Report | None
    sealed: bool
    acts: Sequence[ReportFeedback]
    obstacle: str

    @property
    def finals(self) -> list[ReportFeedback]:
        """Final texts of readers, the newest first."""
        found = [act for act in self.acts if act.kind == FeedbackKind.FINAL and act.sentence is None]
        return found[::-1]


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


def others(caller: Caller, line: StudyLine) -> Others | None:
    """Return the newest other studies under the Patient ID of a study; None without an ID, or if *caller* may not."""
    if not line.patient_id or LIST not in caller.principal.scopes:
        return None
    page = reading.page(caller, limit=MAX_OTHERS + 1, filters=Filters(patient_id=line.patient_id))
    same = [study for study in page.studies if study.study_instance_uid != line.study_instance_uid]
    more = page.following is not None or len(same) > MAX_OTHERS
    return Others([Other(study, _doubt(line, study)) for study in same[:MAX_OTHERS]], more)


def beside(caller: Caller, line: StudyLine, study_id: uuid.UUID, settings: Settings) -> Beside:
    """Return another study under the Patient ID of *line*; raises NotFound if it is not one, or Forbidden."""
    if LIST not in caller.principal.scopes:
        raise Forbidden(f"other studies need the scope `{LIST}`", f"ask an operator for a key with the scope `{LIST}`")
    other = reading.study(caller, study_id)
    if other.id == line.id or not line.patient_id or other.patient_id != line.patient_id:
        raise NotFound("the study is not another one of this patient", "take it from the list on the page of the study")
    draft = reading.report(caller.session, other, settings)
    sealed = draft is not None and reading.is_sealed(caller, other, settings)
    report = None if sealed else draft
    acts = feedback.of_study(caller.session, other.id) if report else ()
    return Beside(other, _doubt(line, other), report, sealed, acts, facts.obstacle(other, report))


def unseen(caller: Caller, acts: Sequence[ReportFeedback], report: Report) -> Change | None:
    """Return what changed since the version that the caller has acted on last; None if that is the current one."""
    before = facts.read_before(acts, str(caller.principal), report.version)
    if before is None:
        return None
    known = {row.version: row for row in versions.all_of(caller.session, report.study_id)}
    title = f"You have read version {before}. Version {report.version} is shown now."
    parts = diff.between(known[before], known[report.version]).parts if before in known else []
    return Change(title, parts, report.version)


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
        Change(_title(row), diff.between(before, row).parts, row.version)
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
    return found + [Change(_title(row), [], row.version) for row in first]


def _title(row: ReportRow) -> str:
    return f"Version {row.version}, {display.moment(row.created_at)}, {row.basis}"


def viewer_link(template: str | None, line: StudyLine) -> str:
    """Return the address of a study in the site's viewer; empty without a template, or if it needs an empty value."""
    values = {"study_instance_uid": line.study_instance_uid, "accession_number": line.accession_number}
    if not template or any(f"{{{name}}}" in template and not value for name, value in values.items()):
        return ""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", quote(value, safe=""))
    return template
