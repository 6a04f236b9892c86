"""`prelim retain`: what ended long ago is deleted, and nothing else."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest
from pydantic import SecretStr, ValidationError
from rich.console import Console
from sqlalchemy import func, select, text

from db.access import audit_log
from db.errors import NotPossible
from db.jobs import claims
from db.models import Commitment, Evidence, Instance, Job, Report, ReportImage, Study, StudyHold
from db.reports import versions
from db.session import transaction
from db.settings import Settings
from db.studies.deletion import erasures, retention
from deploy.operate import audit, report_images, retain
from deploy.operate.audit_log import actions
from deploy.operate.erasure import erase
from deploy.operate.study_actions import show
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool
from tests.integration.db.conftest import Arrivals
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, store

if TYPE_CHECKING:
    from pathlib import Path

YEAR = dt.timedelta(days=365)
TABLES = Study, Job, Instance, Report, ReportImage, Evidence


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with a reported study of two images, and another one that is younger."""
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    # In the end 400 and 300 days old.
    for days in (100, 300):
        first = image()
        for dataset in (first, image(StudyInstanceUID=first.StudyInstanceUID)):
            store(settings, dataset)
        while indexer.run_once(settings):
            pass
        report(Arrivals(database_url))
        grow_older(settings, days=days)
    return settings


def report(arrivals: Arrivals) -> None:
    arrivals.settle()
    claim = arrivals.claim()
    assert claim is not None
    shown = versions.Shown(b"png", sop_instance_uid="2.25.1", frame=0, reason="only image", transform={})
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, versions.Draft("f", "i", "2 of 2 images", "1", "d", {}, images=[shown]))


def execute(settings: Settings, statement: str) -> None:
    with transaction(settings.database()) as session:
        session.execute(text(statement))


def grow_older(settings: Settings, *, days: int) -> None:
    age = f"- interval '{days} days'"
    execute(settings, f"UPDATE studies SET last_received_at = last_received_at {age}, settled_at = settled_at {age}")
    execute(settings, f"UPDATE jobs SET finished_at = finished_at {age}")


def counts(settings: Settings) -> list[int]:
    with transaction(settings.database()) as session:
        rows = [session.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES]
    return [*rows, len(list(Spool(settings.spool).store.rglob("*.dcm")))]


def oldest(settings: Settings) -> Study:
    with transaction(settings.database()) as session:
        return session.scalars(select(Study).order_by(Study.last_received_at).limit(1)).one()


def run(settings: Settings, *, images_only: bool = False, dry_run: bool = False) -> tuple[int, int]:
    amount = retain.run(settings, Console(quiet=True), YEAR, images_only=images_only, dry_run=dry_run)
    return amount.studies, amount.files


def test_old_study_is_deleted_with_its_rows_and_files(settings: Settings) -> None:
    assert counts(settings) == [2, 2, 4, 2, 2, 0, 4]
    assert run(settings, dry_run=True) == (1, 2)
    assert counts(settings) == [2, 2, 4, 2, 2, 0, 4]

    assert run(settings) == (1, 2)

    assert counts(settings) == [1, 1, 2, 1, 1, 0, 2]
    assert audit.check(settings) == []
    assert run(settings) == (0, 0)


class Ahead(dt.datetime):
    """The clock of a machine that is ten years ahead."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        return super().now(tz) + 10 * YEAR


def test_machine_whose_clock_is_years_ahead_deletes_no_younger_study(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dt, "datetime", Ahead)
    assert run(settings) == (1, 2)


def test_database_whose_clock_is_years_ahead_loses_no_younger_study(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "func", SimpleNamespace(now=lambda: func.now() + 10 * YEAR))
    assert run(settings) == (1, 2)


@pytest.mark.parametrize("images_only", [False, True])
def test_images_in_files_are_deleted_with_their_rows(settings: Settings, images_only: bool) -> None:
    report_images.move(settings, Console(quiet=True), "files")
    folder = settings.operations.data_dir / "report_images"
    assert len(list(folder.rglob("*.png"))) == 2
    assert run(settings, images_only=images_only, dry_run=True)[0] == 1

    run(settings, images_only=images_only)

    assert len(list(folder.rglob("*.png"))) == 1
    assert audit.check(settings) == []
    assert run(settings, images_only=images_only) == (0, 0)


def test_unlistable_folder_of_images_is_an_error_after_the_deletion(settings: Settings) -> None:
    (settings.operations.data_dir / "report_images").write_text("not a folder")

    with pytest.raises(NotADirectoryError):
        run(settings)

    assert counts(settings) == [1, 1, 2, 1, 1, 0, 2]


def test_images_of_old_reports_are_deleted_and_their_texts_stay(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)

    assert run(settings, images_only=True, dry_run=True) == (1, 1)
    assert run(settings, images_only=True) == (1, 1)

    assert counts(settings) == [2, 2, 4, 2, 1, 0, 4]
    assert run(settings, images_only=True) == (0, 0)
    with pytest.raises(NotPossible, match="deleted by `prelim retain`"):
        show(settings, Console(file=io.StringIO()), str(study.id), tmp_path / "sheet.png")


@pytest.mark.parametrize("state", ["receiving", "settled", "held"])
def test_open_or_held_study_is_kept(settings: Settings, state: str) -> None:
    study = oldest(settings)
    reason = "identity_conflict" if state == "held" else ""
    execute(settings, f"UPDATE studies SET state = '{state}', reason = '{reason}' WHERE id = '{study.id}'")

    assert [run(settings, images_only=images_only) for images_only in (True, False)] == [(0, 0)] * 2


def test_study_is_kept_while_another_identity_is_younger(settings: Settings) -> None:
    execute(
        settings,
        "UPDATE studies SET identity_number = 2, study_instance_uid = "
        "(SELECT study_instance_uid FROM studies ORDER BY last_received_at LIMIT 1) "
        "WHERE id = (SELECT id FROM studies ORDER BY last_received_at DESC LIMIT 1)",
    )
    assert run(settings) == (0, 0)
    grow_older(settings, days=100)

    assert run(settings) == (2, 4)
    assert counts(settings) == [0] * 7


def test_study_in_use_is_left_for_the_next_run_with_all_its_identities(settings: Settings) -> None:
    execute(
        settings,
        "UPDATE studies SET identity_number = 2, study_instance_uid = "
        "(SELECT study_instance_uid FROM studies ORDER BY last_received_at LIMIT 1) "
        "WHERE id = (SELECT id FROM studies ORDER BY last_received_at DESC LIMIT 1)",
    )
    grow_older(settings, days=100)
    with transaction(settings.database()) as session:
        session.execute(text("SELECT FROM studies WHERE identity_number = 2 FOR UPDATE"))
        assert run(settings) == (0, 0)

    assert run(settings) == (2, 4)


def test_studies_of_a_page_are_deleted_in_several_transactions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "BATCH", 1)
    grow_older(settings, days=100)

    assert run(settings) == (2, 4)
    assert counts(settings) == [0] * 7


def test_batch_is_bounded_in_studies_and_in_files() -> None:
    small = [(f"1.{number}", 3) for number in range(60)]
    assert [len(batch) for batch in retain.batches(small)] == [25, 25, 10]
    large = [("1.1", 100), ("1.2", 9000), ("1.3", 500), ("1.4", 500), ("1.5", 1)]
    assert list(retain.batches(large)) == [["1.1"], ["1.2"], ["1.3", "1.4"], ["1.5"]]


def test_study_is_kept_until_its_storage_commitment_is_delivered(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        uid = session.scalar(select(Instance.sop_instance_uid).where(Instance.study_id == oldest(settings).id).limit(1))
        names = {"transaction_uid": "1.2", "calling_ae_title": "CT", "called_ae_title": "P", "association_id": "a"}
        requested = [["1.2.840.10008.5.1.4.1.1.2", "1.2.3"], ["1.2.840.10008.5.1.4.1.1.2", uid or ""]]
        now = dt.datetime.now(dt.UTC)
        session.add(Commitment(id=uuid.uuid4(), requested=requested, received_at=now, attempts=0, **names))
    assert run(settings) == (0, 0)

    execute(settings, "UPDATE commitments SET delivered_at = now()")
    assert run(settings) == (1, 2)


def test_open_storage_commitments_of_others_cost_no_time_for_each_object(settings: Settings) -> None:
    of_oldest = f"study_id = '{oldest(settings).id}'"
    execute(
        settings,
        "INSERT INTO instances SELECT (jsonb_populate_record(NULL::instances, instance || jsonb_build_object("
        "'id', gen_random_uuid(), 'sop_instance_uid', '2.25.' || n, 'file_path', n))).* FROM"
        f" (SELECT to_jsonb(i) instance FROM instances i WHERE {of_oldest} LIMIT 1) x, generate_series(1, 1000) n",
    )
    execute(
        settings,
        "INSERT INTO commitments (id, transaction_uid, calling_ae_title, called_ae_title, association_id, requested,"
        " received_at, attempts) SELECT gen_random_uuid(), '1.2.' || k, 'CT', 'P', 'a', (SELECT jsonb_agg("
        "jsonb_build_array('1.2.840.10008.5.1.4.1.1.2', '1.2.826.0.1.3680043.8.498.' || k || '.' || n))"
        " FROM generate_series(1, 500) n), now(), 3 FROM generate_series(1, 100) k",
    )
    old = retention.Limits(dt.datetime.now(dt.UTC) - YEAR)
    with transaction(settings.database()) as session:
        session.execute(text("SET LOCAL statement_timeout = 2000"))
        assert len(retention.locked(session, [oldest(settings).study_instance_uid], old)) == 1


def test_interrupted_deletion_is_completed_by_the_next(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    report_images.move(settings, Console(quiet=True), "files")
    with monkeypatch.context() as patched:
        patched.setattr(retain, "_delete_files", lambda _: None)
        patched.setattr(report_images, "remove_unused", killed)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert counts(settings) == [1, 1, 2, 1, 1, 0, 4]
    # The files are neither returned to the inbox nor without an owner.
    assert audit.check(settings) == []

    assert run(settings) == (0, 0)
    assert counts(settings) == [1, 1, 2, 1, 1, 0, 2]
    assert len(list((settings.operations.data_dir / "report_images").rglob("*.png"))) == 1


def test_file_that_cannot_be_deleted_is_named_and_the_others_are_deleted(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        path = session.scalars(select(Instance.file_path).where(Instance.study_id == oldest(settings).id)).first()
    kept = settings.operations.data_dir / str(path)
    kept.unlink()
    kept.mkdir()

    with pytest.raises(IsADirectoryError):
        run(settings)

    assert counts(settings) == [1, 1, 2, 1, 1, 0, 3]
    execute(settings, "UPDATE file_deletions SET noted_at = noted_at - interval '2 hours'")
    [violation] = audit.check(settings)
    assert violation == audit.Violation(audit.DELETED_SOON, str(path))
    assert not audit.repair_violation(settings, violation)
    kept.rmdir()
    assert audit.repair_violation(settings, violation)
    assert audit.check(settings) == []


def test_rules_by_ae_title_and_modality_replace_the_age(settings: Settings) -> None:
    execute(settings, "UPDATE studies SET calling_ae_title = 'ER' WHERE last_received_at > now() - interval '350 days'")

    def deleted(rules: str, age: dt.timedelta | None = None) -> int:
        changed = settings.replace(retention_rules=rules)
        return retain.run(changed, Console(quiet=True), age, images_only=False, dry_run=True).studies

    assert deleted("CT=200d") == 2
    assert deleted("CT=200d,ER=keep") == 1, "an AE title takes precedence"
    assert deleted("CT=keep,ER=200d") == 1
    assert deleted("MR=1d") == 0
    assert deleted("ER=500d", YEAR) == 1
    assert deleted("CT=keep", YEAR) == 0
    with pytest.raises(NotPossible, match="no age"):
        deleted("")


@pytest.mark.parametrize("rules", ["CT", "CT=0d", "CT=30", "=30d", "CT=30h"])
def test_malformed_retention_rule_is_refused(rules: str) -> None:
    with pytest.raises(ValidationError):
        Settings(retention_rules=rules)


@pytest.mark.parametrize("state", ["failed", "not_reportable", "cancelled"])
def test_study_without_a_report_is_kept_unless_it_is_asked_for(settings: Settings, state: str) -> None:
    execute(settings, f"UPDATE studies SET state = '{state}', reason = 'r' WHERE id = '{oldest(settings).id}'")
    printed = io.StringIO()
    amount = retain.run(settings, Console(file=printed), YEAR, images_only=False, dry_run=False)
    assert amount.studies == 0
    assert "old, and kept: 1 without a report" in printed.getvalue()
    amount = retain.run(settings, Console(quiet=True), YEAR, images_only=False, dry_run=False, without_report=True)
    assert amount.studies == 1


def test_study_on_hold_is_kept_until_its_release(settings: Settings) -> None:
    study = oldest(settings)
    with transaction(settings.database()) as session:
        session.add(StudyHold(study_id=study.id, reason="r", held_by="key a"))
    assert run(settings) == run(settings, images_only=True) == (0, 0)
    execute(settings, "UPDATE study_holds SET released_by = 'key a', released_at = now()")
    assert run(settings) == (1, 2)


def test_age_below_a_day_is_refused(settings: Settings) -> None:
    with pytest.raises(NotPossible, match="at least 1d"):
        retain.run(settings, Console(quiet=True), dt.timedelta(hours=23), images_only=False, dry_run=True)


def exported(settings: Settings, folder: Path) -> list[str]:
    actions.export(settings, folder / "log.xml", fhir=False, since=None)
    return (folder / "log.xml").read_text().splitlines()


def test_audit_log_names_a_deletion_and_whom_earlier_rows_concerned(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)
    read = audit_log.Entry(dt.datetime.now(dt.UTC), "read", 200, "key reader", "192.0.2.7", "GET /", [study.id])
    audit_log.Chain("test").append(settings.database(), [read])

    run(settings)

    messages = exported(settings, tmp_path)
    assert len(messages) == 2
    for message in messages:
        assert f'ParticipantObjectID="{study.study_instance_uid}"' in message
        assert f'ParticipantObjectID="{study.patient_id}"' in message
    assert "DICOM Study Deleted" in messages[1]
    assert "prelim retain: 200" in messages[1]


def test_names_of_a_deleted_study_are_erased_with_the_patient(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)
    run(settings)
    found = erase.show(settings, Console(quiet=True), study.patient_id, None)
    assert found.deleted == 1

    amount = erase.run(settings, Console(quiet=True), study.patient_id, None, found)

    assert amount.deleted == 1
    message = exported(settings, tmp_path)[0]
    assert study.study_instance_uid not in message
    assert study.patient_id not in message
    assert f'ParticipantObjectID="{study.id}"' in message
    assert "110180" not in message, "a random id is no Study Instance UID"


def test_erasure_that_was_interrupted_covers_a_study_deleted_since(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)
    with transaction(settings.database()) as session:
        erasures.record(session, {erasures.of_patient(study.patient_id)})
    run(settings)

    assert erase.resume(settings, Console(quiet=True)).deleted == 1
    assert study.patient_id not in exported(settings, tmp_path)[0]


def test_deleted_study_without_a_patient_id_is_erased_by_its_uid(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)
    execute(settings, f"UPDATE studies SET patient_id = ' ' WHERE id = '{study.id}'")
    run(settings)
    with transaction(settings.database()) as session:
        erasures.record(session, {erasures.fingerprint(study.study_instance_uid)})

    assert erase.resume(settings, Console(quiet=True)).deleted == 1
    assert study.study_instance_uid not in exported(settings, tmp_path)[0]


def test_study_received_after_an_erasure_keeps_its_names_for_the_audit_log(settings: Settings, tmp_path: Path) -> None:
    study = oldest(settings)
    with transaction(settings.database()) as session:
        erasures.record(session, {erasures.of_patient(study.patient_id)})
        session.execute(text("UPDATE patient_erasures SET erased_at = erased_at - interval '9 years'"))
    run(settings)

    assert erase.resume(settings, Console(quiet=True)).deleted == 0
    assert study.patient_id in exported(settings, tmp_path)[0]


def test_dry_run_leaves_no_row_in_the_audit_log(settings: Settings, tmp_path: Path) -> None:
    run(settings, dry_run=True)

    assert exported(settings, tmp_path) == []


def with_rules(settings: Settings, rules: str) -> Settings:
    return settings.replace(retention_rules=rules)


@pytest.mark.parametrize("dry_run", [False, True])
def test_rule_of_another_case_is_refused_before_anything_is_deleted(settings: Settings, dry_run: bool) -> None:
    modality = oldest(settings).modality

    with pytest.raises(NotPossible, match=f"studies have {modality}"):
        run(with_rules(settings, f"{modality.lower()}=keep"), dry_run=dry_run)

    assert counts(settings)[0] == 2


def test_rule_that_no_study_has_is_named(settings: Settings) -> None:
    printed = io.StringIO()

    retain.run(with_rules(settings, "CTX=keep"), Console(file=printed), YEAR, images_only=False, dry_run=True)

    assert "neither the AE title nor the modality of a study: CTX" in printed.getvalue()
