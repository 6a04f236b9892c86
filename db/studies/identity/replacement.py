"""Replace an object by a corrected one in quarantine, or by one that was sent after its file was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from db.errors import NotPossible, Reason
from db.models import IdentityDecision, Instance, Quarantined
from db.states import StudyState
from db.studies import revisions
from db.studies.identity import conflicts, identity
from db.studies.identity.decisions import Decision

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

    from db.models import Study
    from db.studies.lifecycle import ReceivedInstance

#: Columns of a file: its instance and its row in quarantine exchange them.
FILE_COLUMNS = ("file_path", "file_bytes", "sha256", "calling_ae_title", "received_at")
#: Columns of an instance from the header of its new file.
HEADER_COLUMNS = ("transfer_syntax_uid", "series_number", "instance_number", "modality", "body_part")
#: Columns that are equal for two versions of one object.
OBJECT_COLUMNS = ("sop_class_uid", "series_instance_uid")
#: Columns of an instance about its reception, and the time of the move to the object storage that begins with it.
RECEPTION_COLUMNS = ("association_id", "called_ae_title", "storage_due_at")


def replace(
    session: Session,
    quarantined_id: uuid.UUID,
    received: ReceivedInstance,
    paths: tuple[str, str],
    by: str,
) -> None:
    """Give the instance the file *received*, and put its old file into quarantine, as `replaced`.

    *paths* are those of the old file, in the store and in quarantine; both files are durable at their new paths. The
    demographics of the study follow, and the report of the new revision states it. Raises NotPossible if the object or
    its study has changed in the meantime.
    """
    study = _locked(session, received)
    query = select(Instance).where(Instance.sop_instance_uid == received.sop_instance_uid)
    instance = session.scalars(query.with_for_update()).one()
    row = session.get_one(Quarantined, quarantined_id, with_for_update=True)
    changed = instance.study_id != study.id or instance.file_path != paths[0]
    if changed or row.reason != Reason.CONFLICTING_SOP_INSTANCE:
        raise NotPossible("the object was replaced in the meantime: see `prelim quarantine list`")
    _swap_files(instance, row, received, paths[1], by)
    _correct(session, study, received, by)
    if instance.reportable:
        detail = "an object was replaced by an operator"
        revisions.supersede(session, study.id, Reason.OPERATOR, detail, inquiries=True)
        revisions.reopen(session, study)
    instance.revision = study.revision
    instance.identified = identity.is_identified(identity.of(received.study))
    study.last_received_at = func.clock_timestamp()


def replace_lost(session: Session, received: ReceivedInstance, lost_path: str) -> bool:
    """Give the instance whose file at *lost_path* is lost the file *received*; return whether it has it now.

    False if the object is of another study, patient, series or class, or has another file by now: it is a conflict.
    A study with a report gets a new one: the pixels cannot be compared.
    """
    try:
        study = _locked(session, received)
    except NotPossible:
        return False
    query = select(Instance).where(Instance.sop_instance_uid == received.sop_instance_uid)
    instance = session.scalars(query.with_for_update()).one()
    is_same = all(getattr(instance, name) == getattr(received, name) for name in OBJECT_COLUMNS)
    differs = identity.differences(identity.of(study), identity.of(received.study))
    if not is_same or differs or (instance.study_id, instance.file_path) != (study.id, lost_path):
        return False
    for name in (*FILE_COLUMNS, *HEADER_COLUMNS, *RECEPTION_COLUMNS):
        setattr(instance, name, getattr(received, name))
    instance.object_sha256 = None
    if instance.reportable:
        revisions.reopen(session, study)
        instance.revision = study.revision
    study.last_received_at = func.clock_timestamp()
    return True


def _locked(session: Session, received: ReceivedInstance) -> Study:
    """Return the study of the stored object; raises NotPossible if a person must decide about it first."""
    owner = select(Instance.study_id).where(Instance.sop_instance_uid == received.sop_instance_uid)
    every = conflicts.locked(session, received.study.study_instance_uid)
    study = next((study for study in every if study.id == session.scalar(owner)), None)
    if study is None:
        raise NotPossible("the stored object is of another study: send the new one under a UID of its own")
    if study.state == StudyState.HELD:
        raise NotPossible("the study is held: decide with `prelim identity` first")
    given = identity.of(received.study)
    if any(other is not study and not identity.differences(identity.of(other), given) for other in every):
        raise NotPossible("objects of this identity are kept apart: send the object under a UID of its own")
    return study


def _swap_files(instance: Instance, row: Quarantined, received: ReceivedInstance, old_path: str, by: str) -> None:
    old = {name: getattr(instance, name) for name in FILE_COLUMNS} | {"file_path": old_path}
    for name in (*FILE_COLUMNS, *HEADER_COLUMNS, *RECEPTION_COLUMNS):
        setattr(instance, name, getattr(received, name))
    instance.object_sha256 = None
    for name, value in old.items():
        setattr(row, name, value)
    row.reason, row.detail = Reason.REPLACED, f"replaced by {by}: its pixels are the same, its header is corrected"


def _correct(session: Session, study: Study, received: ReceivedInstance, by: str) -> None:
    """Give the study the demographics of the new object, and record it."""
    before, given = identity.of(study), identity.of(received.study)
    differs = identity.differences(before, given)
    after = identity.corrected(given, before)
    filled = identity.filled(before, after)
    conflicts.set_identity(study, after)
    study.study_description = received.study.study_description or study.study_description
    study.indication = received.study.indication or study.indication
    study.requested_procedure = received.study.requested_procedure or study.requested_procedure
    former = before._asdict() if differs else {}
    changed = [name for name in identity.LABELS if name in {*differs, *filled}]
    session.add(
        IdentityDecision(study_id=study.id, decision=Decision.CORRECT, differs=changed, former=former, decided_by=by)
    )
