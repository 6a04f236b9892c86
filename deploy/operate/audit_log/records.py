"""Rows of the audit log with the studies and patients that they concern, for export and for sending."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select, tuple_

from db.models import AuditRow, DeletedStudy, Study
from db.session import reading

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from db.settings import Settings

#: Rows read at a time.
BATCH = 500
#: First HTTP status that is an error of the client, and of the server.
CLIENT_ERROR, SERVER_ERROR = 400, 500


class Subject(NamedTuple):
    """Study that a row names; the UID and the patient are empty once the patient is erased."""

    study_id: uuid.UUID
    study_instance_uid: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the audit log for export."""

    chain: int
    sequence: int
    hash: str
    at: dt.datetime
    action: str
    status: int
    principal: str
    address: str
    route: str
    subjects: list[Subject] = field(repr=False)

    @property
    def outcome(self) -> str:
        """Outcome of DICOM PS3.15 A.5.2 and FHIR: 0 success, 4 minor failure such as a denial, 8 serious failure."""
        return "0" if self.status < CLIENT_ERROR else "4" if self.status < SERVER_ERROR else "8"

    def parts(self, subjects: int) -> Iterator[Record]:
        """Yield the record once for each *subjects* of its studies, so that the size of a message has a limit."""
        for start in range(0, max(len(self.subjects), 1), subjects):
            yield replace(self, subjects=self.subjects[start : start + subjects])


def records(settings: Settings, since: dt.datetime | None) -> Iterator[Record]:
    """Yield the rows since a time, by chain and sequence; no transaction is open while the caller writes them."""
    key = tuple_(AuditRow.chain, AuditRow.sequence)
    query = select(AuditRow).order_by(key).limit(BATCH)
    if since is not None:
        query = query.where(AuditRow.at >= since)
    last = -1, -1
    while True:
        with reading(settings.database()) as session:
            rows = session.scalars(query.where(key > last)).all()
            found = of_rows(session, rows)
        if not rows:
            return
        yield from found
        last = rows[-1].chain, rows[-1].sequence


def of_rows(session: Session, rows: Sequence[AuditRow]) -> list[Record]:
    """Return rows with the studies and patients that they concern."""
    subjects = _subjects(session, rows)
    same = ("chain", "sequence", "hash", "at", "action", "status", "principal", "address", "route")
    return [
        Record(
            **{name: getattr(row, name) for name in same},
            subjects=[subjects.get(study, Subject(study, "", "")) for study in row.studies],
        )
        for row in rows
    ]


def _subjects(session: Session, rows: Sequence[AuditRow]) -> dict[uuid.UUID, Subject]:
    wanted = {study for row in rows for study in row.studies}
    stored = select(Study.id, Study.study_instance_uid, Study.patient_id).where(Study.id.in_(wanted))
    gone = DeletedStudy.study_id, DeletedStudy.study_instance_uid, DeletedStudy.patient_id
    deleted = select(*gone).where(DeletedStudy.study_id.in_(wanted))
    return {row[0]: Subject(*row) for query in (stored, deleted) for row in session.execute(query)}
