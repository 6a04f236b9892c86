"""Breaches of each rule that `prelim audit` verifies: statements and files, planted in a copy of a reported study."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from db.operations import invariants
from db.reports import image_files
from deploy.operate import audit, report_images
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from db.settings import Settings

COPY = (
    """
    INSERT INTO studies
    SELECT (jsonb_populate_record(original, jsonb_build_object('id', %(study)s::text,
        'study_instance_uid', %(uid)s::text))).*
    FROM studies AS original WHERE id = %(original)s
    """,
    """
    INSERT INTO instances
    SELECT (jsonb_populate_record(original, jsonb_build_object('id', %(instance)s::text, 'study_id', %(study)s::text,
        'sop_instance_uid', %(uid)s || '.1', 'file_path', %(path)s::text))).*
    FROM instances AS original WHERE study_id = %(original)s ORDER BY id LIMIT 1
    """,
    """
    INSERT INTO jobs
    SELECT (jsonb_populate_record(original, jsonb_build_object('id', %(job)s::text,
        'study_id', %(study)s::text))).*
    FROM jobs AS original WHERE study_id = %(original)s
    """,
    """
    INSERT INTO reports
    SELECT (jsonb_populate_record(original, jsonb_build_object('id', %(report)s::text, 'study_id', %(study)s::text,
        'job_id', %(job)s::text))).*
    FROM reports AS original WHERE study_id = %(original)s
    """,
)
REMOVE = (
    "DELETE FROM inquiries WHERE job_id = %(inquiry)s",
    "DELETE FROM file_deletions WHERE file_path = %(extra)s",
    "DELETE FROM reports WHERE study_id = %(study)s",
    "DELETE FROM jobs WHERE study_id = %(study)s",
    "DELETE FROM instances WHERE study_id = %(study)s",
    "DELETE FROM studies WHERE id = %(study)s",
    "DELETE FROM commitments WHERE transaction_uid = %(uid)s",
    "DELETE FROM procedure_steps WHERE sop_instance_uid = %(uid)s",
)
LOCK = "SELECT 1 FROM studies JOIN jobs ON jobs.study_id = studies.id WHERE studies.id = %(study)s FOR UPDATE"
#: A reported study of one revision, with its first file; locked, because late images may arrive.
ORIGINAL = """
    SELECT jsonb_build_array(studies.id, file_path) FROM studies JOIN instances ON study_id = studies.id
    WHERE state = 'reported' AND studies.revision = 1
    ORDER BY instances.id LIMIT 1 FOR UPDATE OF studies SKIP LOCKED
"""
STUDY, JOB = "UPDATE studies SET {} WHERE id = %(study)s;", "UPDATE jobs SET {} WHERE study_id = %(study)s;"
NO_REPORT = "DELETE FROM reports WHERE study_id = %(study)s;"
LATER = "now() + interval '1 day'"
ARRIVING = STUDY.format(f"state = 'receiving', last_received_at = {LATER}, revision_started_at = {LATER}")
HELD = STUDY.format("state = 'held', reason = 'identity_conflict', differs = '{patient_id}'")
WAITING = JOB.format(f"state = 'queued', finished_at = NULL, available_at = {LATER}, sent_at = {LATER}")

#: A question about the copy, which no worker claims.
QUESTION = """
    INSERT INTO jobs
    SELECT (jsonb_populate_record(original, jsonb_build_object('id', %(inquiry)s::text, 'kind', 'question',
        'state', 'cancelled', 'reason', 'operator'))).*
    FROM jobs AS original WHERE study_id = %(study)s;
    INSERT INTO inquiries (job_id, study_id, kind, question, requested_by)
    VALUES (%(inquiry)s, %(study)s, 'question', 'Is there an effusion?', 'planted');
"""
ANSWERED = """
    UPDATE jobs SET state = 'finished', reason = NULL WHERE id = %(inquiry)s;
    INSERT INTO answers (job_id, revision, fence, text, model_text, cannot_tell, why, calibration, predictions,
        findings, images, limitations, basis, prompt_version, model_digest, provenance)
    SELECT id, revision, fence, 'No.', 'No.', false, '', 'uncalibrated', '[]', '[]', '[]', '{}', '', '', '', '{}'
    FROM jobs WHERE id = %(inquiry)s;
"""
ASKED = "UPDATE jobs SET {} WHERE id = %(inquiry)s;"

RESCUED = "a job is rescued soon after the end of its lease"
#: Statements that violate each rule of the database.
ROWS: dict[str, str] = {
    "a receiving study has no job of its revision": ARRIVING,
    "a settled study has one open job": STUDY.format("state = 'settled'"),
    "a failed or cancelled study has a job in the same state": STUDY.format("state = 'failed', reason = 'x'"),
    "a not reportable study has no images or a not reportable job": STUDY.format(
        "state = 'not_reportable', reason = 'x'"
    ),
    "a held study has no open job": HELD + WAITING + NO_REPORT,
    "a held study has another held identity": HELD,
    "a held study names its conflict": STUDY.format("state = 'held', reason = 'x'"),
    "a Study Instance UID has a first identity": STUDY.format("identity_number = 2"),
    "a refused identity has no job": STUDY.format("state = 'cancelled', reason = 'identity_refused'"),
    "an open report job belongs to a settled study's revision": WAITING,
    "a reported study's job is finished": WAITING,
    "an instance belongs to a revision that its study has begun": "UPDATE instances SET revision = 7"
    " WHERE study_id = %(study)s",
    "a receiving study has an instance": NO_REPORT + "DELETE FROM jobs WHERE study_id = %(study)s;"
    " DELETE FROM instances WHERE study_id = %(study)s;" + ARRIVING,
    "exactly the finished report jobs have a report": NO_REPORT,
    "a report was written under its job's last fence": JOB.format("fence = 99"),
    "a study's report versions are 1, 2, ...": """
        WITH former AS (DELETE FROM reports WHERE study_id = %(study)s RETURNING *)
        INSERT INTO reports
        SELECT (jsonb_populate_record(former::reports, jsonb_build_object('id', uuidv7(), 'version', 2))).* FROM former
    """,
    "a study has the version of its current report": STUDY.format("report_version = 7"),
    "a study is marked if a check or verdict of its current report is": "INSERT INTO report_checks"
    " SELECT id, 'planted', 'warning', '{}' FROM reports WHERE study_id = %(study)s;"
    + STUDY.format("is_marked = false"),
    RESCUED: NO_REPORT
    + STUDY.format("state = 'settled'")
    + JOB.format("state = 'running', finished_at = NULL, lease_until = now() - interval '1 day', owner = 'planted'"),
    "an open job has at most PRELIM_MAX_ATTEMPTS attempts": NO_REPORT
    + WAITING
    + STUDY.format("state = 'settled'")
    + JOB.format("attempt = 99"),
    "exactly the jobs of inquiries have an inquiry": QUESTION + "DELETE FROM inquiries WHERE job_id = %(inquiry)s;",
    "an inquiry has the study and the kind of its job": QUESTION + ASKED.format("kind = 'diagnosis'"),
    "exactly the finished jobs of inquiries have an answer": QUESTION + ASKED.format("state = 'finished'"),
    "an answer was written under its job's last fence": QUESTION + ANSWERED + ASKED.format("fence = 99"),
    "the job of an inquiry belongs to a revision that its study has begun": QUESTION + ASKED.format("revision = 7"),
    "a held study has no open inquiry": QUESTION
    + HELD
    + ASKED.format(f"state = 'queued', finished_at = NULL, available_at = {LATER}, sent_at = {LATER}"),
    invariants.RESULT_ENDS: f"""
        INSERT INTO commitments (id, transaction_uid, calling_ae_title, called_ae_title, association_id, requested,
            received_at, attempts, due_at)
        VALUES (%(commitment)s, %(uid)s, 'A', 'B', 'c', '[]', now() - interval '1 year', 9, {LATER})
    """,
    invariants.STEP_ENDS: """
        INSERT INTO procedure_steps (sop_instance_uid, study_instance_uid, state, images, updated_at)
        VALUES (%(uid)s, '1.3', 'IN PROGRESS', '{}', now() - interval '1 year')
    """,
}
TABLES = ("study", "instance", "job", "report", "commitment", "inquiry")
#: Statements beside the files that violate the other rules.
FILES: dict[str, str] = {
    audit.NO_FILE: "",
    audit.OTHER_SIZE: "",
    audit.OTHER_DIGEST: "",
    audit.NO_ROW: "",
    audit.STALE: "",
    audit.UNREADABLE: "",
    audit.INDEXED_SOON: "",
    audit.DELETED_SOON: "INSERT INTO file_deletions VALUES (%(extra)s, now() - interval '1 day')",
    report_images.DAMAGED: """
        INSERT INTO report_images
            (report_id, ordinal, sop_instance_uid, frame, reason, transform, warnings, png, sha256)
        VALUES (%(report)s, 99, %(uid)s, 0, '', '{}', '{}', '', 'x')
    """,
    report_images.UNUSED: "",
    report_images.UNKNOWN: "",
}

#: Rules that a file without a row violates.
EXTRA = (audit.NO_ROW, audit.STALE, audit.INDEXED_SOON, report_images.UNUSED, report_images.UNKNOWN)


class Planted(NamedTuple):
    """Copy of a study; its ids and paths are the only subjects of violations."""

    names: dict[str, Any]
    file: Path
    extra: Path

    def is_subject(self, violation: invariants.Violation) -> bool:
        """Return whether a violation names the copy."""
        marks = (*(self.names[table] for table in TABLES), self.names["uid"], self.file.stem, self.extra.stem)
        return any(mark in violation.subject for mark in marks)


def planted(settings: Settings, rule: str, original: tuple[str, str]) -> Planted:
    """Name a copy of the study with the id and the first file *original*, and the files that violate *rule*."""
    data_dir = settings.operations.data_dir
    names = {table: str(uuid.uuid4()) for table in TABLES} | {
        "uid": f"2.25.{uuid.uuid4().int}",
        "original": original[0],
    }
    file = (data_dir / original[1]).with_name(f"{uuid.uuid4().hex}.dcm")
    extra = _extra(settings, rule, names["job"], file.parent)
    paths = {"path": file.relative_to(data_dir).as_posix(), "extra": extra.relative_to(data_dir).as_posix()}
    return Planted(names | paths, file, extra)


def _extra(settings: Settings, rule: str, job_id: str, store: Path) -> Path:
    """Return the path of a file beside that of the copy."""
    name = uuid.uuid4().hex
    inbox, images = Spool(settings.spool).inbox, settings.operations.data_dir / image_files.FOLDER
    places = {
        audit.STALE: inbox / f"{name}.part",
        audit.INDEXED_SOON: inbox / f"{name}.dcm",
        report_images.UNUSED: images / f"{uuid.UUID(job_id).hex}-{name}-1.png",
        report_images.UNKNOWN: images / f"{name}.png",
    }
    return places.get(rule, store / f"{name}.dcm")


def damage(planted: Planted, rule: str, held: ExitStack) -> None:
    """Damage the files as *rule* requires; a lock on one ends with *held*."""
    if rule in (audit.NO_FILE, audit.UNREADABLE):
        planted.file.unlink()
        if rule == audit.UNREADABLE:
            planted.file.symlink_to(planted.file)  # stat() fails: too many levels of links
    elif rule == audit.OTHER_SIZE:
        os.truncate(planted.file, 100)
    elif rule == audit.OTHER_DIGEST:
        content = bytearray(planted.file.read_bytes())
        content[-1] ^= 1
        planted.file.write_bytes(content)
    elif rule in EXTRA:
        _add_old(planted, held)


def _add_old(planted: Planted, held: ExitStack) -> None:
    """Add the other file, with an old time, and locked as by a dispatcher, so that no dispatcher indexes it."""
    planted.extra.parent.mkdir(exist_ok=True)
    hidden = planted.file.with_suffix(".planted")
    shutil.copyfile(planted.file, hidden)
    os.utime(hidden, (0, 0))
    file = held.enter_context(hidden.open("rb"))
    fcntl.flock(file, fcntl.LOCK_EX)
    hidden.rename(planted.extra)


def remove(planted: Planted) -> None:
    """Remove the files of the copy."""
    for path in (planted.file, planted.extra):
        path.unlink(missing_ok=True)
