"""Audits beside traffic: one planted breach after the other is found, and nothing else is a violation.

`python -m tests.chaos.planted --seconds 600` runs it. A breach is planted in a copy of a reported study, whose rows
stay locked, so that no process repairs it before the audit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import tempfile
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.rows import scalar_row
from sqlalchemy import text

from db.operations import invariants
from db.session import transaction
from deploy.operate import audit
from dicom_listener.spool.durable import Spool
from tests.chaos.modality import History, Modality, plan
from tests.chaos.system import System, running_system

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    RESCUED: NO_REPORT
    + STUDY.format("state = 'settled'")
    + JOB.format("state = 'running', finished_at = NULL, lease_until = now() - interval '1 day', owner = 'planted'"),
    "an open job has at most PRELIM_MAX_ATTEMPTS attempts": NO_REPORT
    + WAITING
    + STUDY.format("state = 'settled'")
    + JOB.format("attempt = 99"),
    "a storage commitment result is delivered or given up within 8 days": f"""
        INSERT INTO commitments (id, transaction_uid, calling_ae_title, called_ae_title, association_id, requested,
            received_at, attempts, due_at)
        VALUES (%(commitment)s, %(uid)s, 'A', 'B', 'c', '[]', now() - interval '1 year', 9, {LATER})
    """,
    invariants.STEP_ENDS: """
        INSERT INTO procedure_steps (sop_instance_uid, study_instance_uid, state, images, updated_at)
        VALUES (%(uid)s, '1.3', 'IN PROGRESS', '{}', now() - interval '1 year')
    """,
}
TABLES = ("study", "instance", "job", "report", "commitment")
FILES = (audit.NO_FILE, audit.OTHER_SIZE, audit.OTHER_DIGEST, audit.NO_ROW, audit.STALE)


class Result(NamedTuple):
    """Counts of a run; *false* are violations without a breach, *missed* breaches that an audit did not find."""

    audits: int
    studies: int
    found: Counter[str]
    false: list[str]
    missed: list[str]


class Planted(NamedTuple):
    """Copy of a study; its ids and paths are the only subjects of violations."""

    names: dict[str, Any]
    file: Path
    extra: Path

    def is_subject(self, violation: invariants.Violation) -> bool:
        """Return whether a violation names the copy."""
        marks = (*(self.names[table] for table in TABLES), self.names["uid"], self.file.stem, self.extra.stem)
        return any(mark in violation.subject for mark in marks)


def run(system: System, seconds: float, seed: int = 1) -> Result:
    """Send studies for *seconds*, and audit all the time, every other audit with a planted breach."""
    planned = plan(int(seconds), random.Random(seed))
    modality = Modality("TRAFFIC", system.settings.dicom.dicom_port, planned, seconds, History())
    modality.start()
    result = Result(0, len(planned), Counter(), [], [])
    ends = time.monotonic() + seconds
    with psycopg.connect(system.url.replace("+psycopg", ""), row_factory=scalar_row) as connection:
        for rule in itertools.cycle((*ROWS, *FILES)):
            if time.monotonic() > ends:
                break
            result = _audit(system, None, "", result)
            with _planted(system, connection, rule) as planted:
                result = _audit(system, planted, rule, result)
    return result


def _audit(system: System, planted: Planted | None, rule: str, result: Result) -> Result:
    system.supervise()
    violations = audit.check(system.settings)
    for violation in violations:
        if planted is None or not planted.is_subject(violation):
            result.false.append(f"{violation.rule}: {violation.subject}")
    if planted is not None:
        found = any(violation.rule == rule and planted.is_subject(violation) for violation in violations)
        result.found[rule] += found
        result.missed.extend([] if found or _was_rescued(system, planted, rule) else [rule])
    return result._replace(audits=result.audits + 1)


def _was_rescued(system: System, planted: Planted, rule: str) -> bool:
    """Return whether a dispatcher has rescued the job between the commit of the breach and the lock."""
    with transaction(system.url) as session:
        state = session.scalar(text("SELECT state FROM jobs WHERE id = :job"), {"job": planted.names["job"]})
    return rule == RESCUED and state != "running"


def _original(system: System, connection: psycopg.Connection[Any]) -> tuple[str, str]:
    while (found := connection.execute(ORIGINAL).fetchone()) is None:
        connection.commit()
        system.supervise_for(0.5)
    return found[0], found[1]


@contextmanager
def _planted(system: System, connection: psycopg.Connection[Any], rule: str) -> Iterator[Planted]:
    """Plant a breach of *rule* and remove it afterwards."""
    original = _original(system, connection)
    data_dir, spool = system.settings.operations.data_dir, Spool(system.settings.spool)
    source = data_dir / original[1]
    file = source.with_name(f"{uuid.uuid4().hex}.dcm")
    extra = (spool.inbox if rule == audit.STALE else file.parent) / f"{uuid.uuid4().hex}.dcm"
    planted = Planted(
        {
            **{table: str(uuid.uuid4()) for table in TABLES},
            "uid": f"2.25.{uuid.uuid4().int}",
            "original": original[0],
            "path": str(file.relative_to(data_dir)),
        },
        file,
        extra.with_suffix(".part") if rule == audit.STALE else extra,
    )
    shutil.copyfile(source, file)
    # The file of a row that is not yet visible would be a violation.
    for statement in (*COPY, ROWS.get(rule, "")):
        _execute(connection, statement, planted.names)
    connection.commit()
    connection.execute(LOCK, planted.names)
    _damage(planted, rule)
    try:
        yield planted
    finally:
        for statement in REMOVE:
            connection.execute(statement.encode(), planted.names)
        connection.commit()
        for path in (planted.file, planted.extra):
            path.unlink(missing_ok=True)


def _execute(connection: psycopg.Connection[Any], statements: str, names: dict[str, Any]) -> None:
    for statement in filter(str.strip, statements.split(";")):
        connection.execute(statement.encode(), names)


def _damage(planted: Planted, rule: str) -> None:
    """Damage the files as *rule* requires."""
    if rule == audit.NO_FILE:
        planted.file.unlink()
    elif rule == audit.OTHER_SIZE:
        os.truncate(planted.file, 100)
    elif rule == audit.OTHER_DIGEST:
        content = bytearray(planted.file.read_bytes())
        content[-1] ^= 1
        planted.file.write_bytes(content)
    elif rule in (audit.NO_ROW, audit.STALE):
        shutil.copyfile(planted.file, planted.extra)
        if rule == audit.STALE:
            os.utime(planted.extra, (0, 0))


def main() -> None:
    """Run it and print the counts as JSON; exit with 1 for a false verdict or a breach that was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, running_system(Path(folder)) as system:
        result = run(system, seconds)
    print(json.dumps(result._asdict(), indent=1))  # noqa: T201 - the result
    raise SystemExit(bool(result.false or result.missed))


if __name__ == "__main__":
    main()
