"""Record the files of a batch with few statements: one lock and one update a study, one INSERT for the instances."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from db.models import Instance
from db.models.base import any_of
from db.states import StudyState
from db.studies import lifecycle
from db.studies.identity import conflicts
from db.studies.lifecycle import Recorded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.models import Study
    from db.studies.lifecycle import ReceivedInstance

#: Columns of a new row, each with a parameter: the array of its values. The statement does not grow with the batch.
TABLE = Instance.metadata.tables[Instance.__tablename__]
COLUMNS = [column for column in TABLE.columns if column.name not in {"id", "indexed_at", "object_sha256"}]
ROWS = select(*(func.unnest(bindparam(column.name, type_=ARRAY(column.type))) for column in COLUMNS))
INSERT = (
    insert(TABLE)
    .from_select([column.name for column in COLUMNS], ROWS)
    .on_conflict_do_nothing()
    .returning(TABLE.c.sop_instance_uid)
)


def record(session: Session, batch: Sequence[ReceivedInstance]) -> dict[str, Recorded]:
    """Insert the rows of durable files exactly once; the results by file path.

    The new objects of a study that is receiving, with one identity, are recorded together. All others are recorded one
    by one as by lifecycle.record_instance: known objects, late images, other demographics, held studies.
    """
    if not batch:
        return {}
    new = _unknown(session, batch)
    locked = conflicts.locked_studies(session, new, {received.study.study_instance_uid for received in batch})
    together = _record_together(session, new, locked)
    return {
        received.file_path: Recorded.NEW
        if received.sop_instance_uid in together
        else lifecycle.record_instance(session, received)
        for received in batch
    }


def _unknown(session: Session, batch: Sequence[ReceivedInstance]) -> list[ReceivedInstance]:
    """Return the files whose SOP Instance UID has no row and is in the batch once."""
    uids = [received.sop_instance_uid for received in batch]
    known = set(session.scalars(select(Instance.sop_instance_uid).where(Instance.sop_instance_uid == any_of(uids))))
    counts = Counter(uids)
    return [one for one in batch if one.sop_instance_uid not in known and counts[one.sop_instance_uid] == 1]


def _record_together(
    session: Session, new: Sequence[ReceivedInstance], locked: Mapping[str, Sequence[Study]]
) -> set[str]:
    """Insert the files that need no decision; return the SOP Instance UIDs of those that were inserted."""
    by_study: dict[str, list[ReceivedInstance]] = {}
    for received in new:
        by_study.setdefault(received.study.study_instance_uid, []).append(received)
    # A study can be missing: `prelim retain` may have deleted it while this transaction waited for the lock.
    simple = [(locked[uid][0], files) for uid, files in by_study.items() if _is_simple(locked.get(uid, ()), files)]
    rows = [lifecycle.values_of(received, study) for study, files in simple for received in files]
    inserted = set(session.scalars(INSERT, {column.name: [row[column.name] for row in rows] for column in COLUMNS}))
    for study, files in simple:
        for received in files:
            # Another dispatcher may have inserted the object of another study under this SOP Instance UID.
            if received.sop_instance_uid in inserted:
                lifecycle.note_arrival(session, study, received)
    return inserted


def _is_simple(studies: Sequence[Study], files: Sequence[ReceivedInstance]) -> bool:
    return len(studies) == 1 and studies[0].state == StudyState.RECEIVING and conflicts.complete(studies[0], files)
