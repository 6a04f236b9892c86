"""`prelim backup` and `prelim restore`: everything acknowledged is back, and nothing of before can write."""

from __future__ import annotations

import datetime as dt
import errno
import io
import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from db import reference
from db.errors import NotPossible, StaleFence
from db.jobs import claims
from db.models import Backup, Instance, Job, PatientErasure, Report, Study
from db.reports import versions
from db.session import transaction
from db.studies.deletion import erasures, file_deletions, retention
from db.studies.deletion.file_deletions import BackupRunning
from deploy.operate import audit
from deploy.operate.backup import again, dump, restore, sealing
from deploy.operate.backup.contents import ERASURES
from deploy.operate.backup.copied_files import REFERENCE
from deploy.operate.backup.repository import Repository
from deploy.operate.erasure import erase
from dicom_listener.indexing import indexer
from dicom_listener.recovery import noted_timeline
from dicom_listener.spool.durable import Spool
from tests.integration.db.conftest import Arrivals
from tests.integration.deploy.operate.restore.place import KEY, arrived, back_up, empty_place
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.jobs.claims import Claim
    from db.settings import Settings
    from deploy.embedded.postgres import Postgres

DRAFT = versions.Draft(
    "f", "i", "1 of 1 images", "1", "d", {}, images=[versions.Shown(b"png", "2.25.1", 0, "only", {})]
)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with a reported study."""
    settings = settings_for(tmp_path / "data", database_url=SecretStr(database_url))
    arrived(settings)
    claim = claimed(settings)
    with transaction(database_url) as session:
        claims.finish(session, claim, DRAFT)
    return settings


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups", KEY)


@pytest.fixture
def empty(tmp_path: Path, postgres: Postgres) -> Iterator[Settings]:
    with empty_place(tmp_path / "empty", postgres) as place:
        yield place


def claimed(settings: Settings) -> Claim:
    arrivals = Arrivals(settings.database())
    arrivals.settle()
    claim = arrivals.claim()
    assert claim is not None
    return claim


def restored(settings: Settings, repository: Repository) -> int:
    restore.restore(settings, repository, repository.latest())
    return restore.finish(settings, Console(quiet=True), repository)


def test_erased_patient_does_not_come_back_from_an_older_backup(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    back_up(settings, repository)
    older = repository.latest()
    (patient_id,) = {row["patient_id"] for row in rows(settings, Study)}
    erase.run(
        settings, Console(quiet=True), patient_id, None, erase.show(settings, Console(quiet=True), patient_id, None)
    )
    arrived(settings)
    back_up(settings, repository)

    restore.restore(empty, repository, older)
    assert rows(empty, Study)
    assert restore.finish(empty, Console(quiet=True), repository) == 0
    assert rows(empty, Study) == rows(empty, Instance) == rows(empty, Report) == []
    assert not list(Spool(empty.spool).store.rglob("*.dcm"))


def test_erasure_that_is_renewed_while_a_backup_notes_it_is_for_the_next_backup(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record() -> None:
        with transaction(settings.database()) as session:
            erasures.record(session, {"patient"})

    def is_in_a_backup() -> bool:
        with transaction(settings.database()) as session:
            return session.scalars(select(PatientErasure.backed_up_at)).one() is not None

    record()
    repository.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(repository, "note", lambda *_: record())
        again.note(settings.database(), repository)
    assert not is_in_a_backup()

    again.note(settings.database(), repository)
    assert is_in_a_backup()


def erase_case(settings: Settings, name: str) -> None:
    with transaction(settings.database()) as session:
        reference.erase_owner(session, {name})


def is_erased(settings: Settings, name: str) -> bool:
    with transaction(settings.database()) as session:
        return reference.erased(session, {name}) == {name}


def test_folder_keeps_the_erasures_of_every_database_that_is_backed_up_to_it(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    back_up(settings, repository)
    older = repository.latest()
    erase_case(settings, "first")
    again.note(settings.database(), repository)
    # Work goes on in a restored database that knows nothing of the first erasure.
    restore.restore(empty, repository, older)
    erase_case(empty, "second")
    again.note(empty.database(), repository)

    assert again.include(empty.database(), repository) is False, "no case of them is there"
    assert is_erased(empty, "first")
    assert is_erased(empty, "second")
    assert repository.erasures().reference.keys() == {"first", "second"}


def test_readmitted_case_stays_readmitted_after_a_restore(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    erase_case(settings, "a case")
    back_up(settings, repository)
    older = repository.latest()
    with transaction(settings.database()) as session:
        reference.readmit(session, {"a case"})
    again.note(settings.database(), repository)
    restore.restore(empty, repository, older)
    assert is_erased(empty, "a case")
    again.include(empty.database(), repository)
    assert not is_erased(empty, "a case")

    erase_case(empty, "a case")
    again.note(empty.database(), repository)
    again.include(settings.database(), repository)
    assert is_erased(settings, "a case")


def test_erasures_written_by_an_earlier_release_are_read(settings: Settings, repository: Repository) -> None:
    repository.prepare()
    when = dt.datetime(2026, 1, 12, tzinfo=dt.UTC).isoformat()
    repository.note(ERASURES, {"patients": {"patient": when}, "reference": ["a case"]})
    again.include(settings.database(), repository)

    assert is_erased(settings, "a case")
    again.note(settings.database(), repository)
    assert repository.erasures().patients == {"patient": when}


def rows(settings: Settings, table: type[Any]) -> list[dict[str, Any]]:
    with transaction(settings.database()) as session:
        return [dict(row._mapping) for row in session.execute(select(table.__table__).order_by(table.__table__.c[0]))]


def test_restored_system_has_everything_acknowledged_and_audits_clean(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    receive(settings, image())

    made, printed = back_up(settings, repository)
    assert not made.absent
    assert "backup" in printed
    assert restored(empty, repository) == 0

    assert rows(empty, Report) == rows(settings, Report)
    # The object that was in the inbox is indexed.
    assert len(rows(empty, Instance)) == len(rows(settings, Instance)) + 1
    assert audit.check(empty) == []
    assert not list(Spool(empty.spool).root.rglob("*.restored"))


def test_restored_database_is_noted_as_that_of_the_files(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    back_up(settings, repository)
    restored(empty, repository)

    with transaction(empty.database()) as session:
        current = noted_timeline.current_timeline(session)
    assert noted_timeline.noted(Spool(empty.spool).timeline) == current


def test_worker_of_before_the_restore_cannot_store_its_report(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    arrived(settings)
    claim = claimed(settings)
    back_up(settings, repository)
    restored(empty, repository)

    with pytest.raises(StaleFence), transaction(empty.database()) as session:
        claims.finish(session, claim, DRAFT)
    again = Arrivals(empty.database()).claim()
    assert again is not None
    assert (again.job_id, again.attempt) == (claim.job_id, claim.attempt + 1)
    assert again.token != claim.token


def test_file_that_arrives_during_the_backup_is_in_it(
    settings: Settings, repository: Repository, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, late = dump.dumping, []

    def dumping(url: str) -> Any:
        late.append(receive(settings, image()))
        indexer.run_once(settings)
        receive(settings, image())
        return real(url)

    receive(settings, image())
    monkeypatch.setattr(dump, "dumping", dumping)
    back_up(settings, repository)
    restored(empty, repository)

    assert len(rows(empty, Instance)) == len(rows(settings, Instance)) + 1
    assert audit.check(empty) == []


def test_later_backup_copies_new_files_only_and_the_kept_ones_stay_readable(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    back_up(settings, repository)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "backups" / "files").rglob("*.sealed")}
    arrived(settings)
    with transaction(settings.database()) as session:
        # `prelim retain` without the wait.
        old = session.scalars(select(Instance.file_path).order_by(Instance.id).limit(1)).one()
        retention.delete_studies(session, session.scalars(select(Study).order_by(Study.id).limit(1)).all())
    assert file_deletions.delete_files(settings) is None
    back_up(settings, repository, keep=1)

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "backups" / "files").rglob("*.sealed")}
    assert not any(old in str(path) for path in files)
    assert len(files) == len(rows(settings, Instance))
    assert all(first.get(path, modified) == modified for path, modified in files.items())
    assert len(repository.names()) == 1
    assert restored(empty, repository) == 0


def test_damaged_file_of_a_backup_is_named_and_all_else_is_restored(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    arrived(settings)
    back_up(settings, repository)
    damaged = next((tmp_path / "backups" / "files" / "spool" / "store").rglob("*.sealed"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")

    with capture_logs() as logs:
        _, lost = restore.restore(empty, repository, repository.latest())
    assert lost == 1
    assert [line["file"] for line in logs if line["event"] == "restore.file_lost"] == [
        damaged.relative_to(tmp_path / "backups" / "files").as_posix().removesuffix(".sealed")
    ]
    assert restore.finish(empty, Console(quiet=True), repository) == 1
    assert rows(empty, Report) == rows(settings, Report)
    assert len([path for path in Spool(empty.spool).store.rglob("*") if path.is_file()]) == 1
    assert restore.verify(settings, Console(quiet=True), repository, repository.latest(), tmp_path).violations == 1


def test_full_disk_ends_a_restore_which_can_be_repeated(
    settings: Settings, repository: Repository, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no damage of the backup: the files that do not fit would be lost for good."""
    back_up(settings, repository)
    read = repository.restore

    def restore_on_a_full_disk(name: str, _target: Any) -> Any:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - unbuffered
            return read(name, full)

    with monkeypatch.context() as patch:
        patch.setattr(repository, "restore", restore_on_a_full_disk)
        with pytest.raises(OSError, match="No space left") as raised:
            restore.restore(empty, repository, repository.latest())
    assert raised.value.errno == errno.ENOSPC
    assert restore.restore(empty, repository, repository.latest()).lost == 0
    assert restore.finish(empty, Console(quiet=True), repository) == 0


def test_copy_that_cannot_be_read_or_is_missing_is_lost_alone(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived(settings)
    back_up(settings, repository)
    next((tmp_path / "backups" / "files" / "spool" / "store").rglob("*.sealed")).unlink()
    read, failing = sealing._read, iter([errno.EIO])

    def read_from_a_failing_disk(source: Any, size: int, name: str) -> bytes:
        with sealing.errors_of(name):
            if name.startswith("spool/store") and (error := next(failing, None)):
                raise OSError(error, os.strerror(error))
        return read(source, size, name)

    monkeypatch.setattr(sealing, "_read", read_from_a_failing_disk)
    assert restore.restore(empty, repository, repository.latest()).lost == 2


def test_restore_into_a_used_database_is_refused(settings: Settings, repository: Repository) -> None:
    back_up(settings, repository)
    with pytest.raises(NotPossible, match="the database has tables"):
        restored(settings, repository)


def test_unreadable_file_is_named_and_the_others_are_backed_up(settings: Settings, repository: Repository) -> None:
    arrived(settings)
    with transaction(settings.database()) as session:
        path = session.scalars(select(Instance.file_path).limit(1)).one()
    (settings.operations.data_dir / path).unlink()
    (settings.operations.data_dir / path).symlink_to("/dev/null")

    made, printed = back_up(settings, repository)

    assert made.absent.files == 1
    assert f"not in the backup: {path}" in printed


def test_folder_that_cannot_be_listed_is_named(settings: Settings, repository: Repository) -> None:
    (settings.operations.data_dir / REFERENCE).write_text("a file in place of the folder")

    made, printed = back_up(settings, repository)

    assert made.absent.files == 1
    assert f"not in the backup: {REFERENCE}: {os.strerror(errno.ENOTDIR)}" in printed
    assert made.count == 1


def test_inbox_that_cannot_be_listed_is_named_once_and_the_rest_is_backed_up(
    settings: Settings, repository: Repository
) -> None:
    receive(settings, image())
    other = Spool(settings.spool).root / "slots" / "other-0"
    other.mkdir()
    (other / "inbox").write_text("a file in place of the folder")

    made, _ = back_up(settings, repository)

    assert made.absent.sentences() == [f"not in the backup: spool/slots/other-0/inbox: {os.strerror(errno.ENOTDIR)}"]
    assert made.count == 2


def overdue(url: str) -> list[str]:
    with transaction(url) as session:
        return list(file_deletions.overdue(session))


def test_second_backup_at_the_same_time_is_refused(settings: Settings, repository: Repository) -> None:
    repository.prepare()
    with repository.exclusive(), pytest.raises(NotPossible, match="another backup is writing"):
        back_up(settings, repository)


def test_files_are_not_deleted_during_a_backup(settings: Settings) -> None:
    url, data_dir = settings.database(), settings.operations.data_dir
    file = data_dir / rows(settings, Instance)[0]["file_path"]
    with transaction(url) as session:
        file_deletions.note(session, ["old.dcm"])
        session.execute(text("UPDATE file_deletions SET noted_at = noted_at - interval '2 hours'"))
    (data_dir / "old.dcm").touch()
    assert overdue(url) == ["old.dcm"]
    with transaction(url) as session:  # by a clock that went back since
        session.execute(text("UPDATE file_deletions SET noted_at = now() + interval '300 days'"))
    assert overdue(url) == ["old.dcm"]
    with file_deletions.held_off(url):
        # Its deletion waits: it is not late.
        assert overdue(url) == []
        with pytest.raises(BackupRunning):
            file_deletions.delete_files(settings)
    assert (data_dir / "old.dcm").exists()

    with transaction(url) as session:
        file_deletions.note(session, [file.relative_to(data_dir).as_posix()])
    assert file_deletions.delete_files(settings) is None
    assert not (data_dir / "old.dcm").exists()
    # A row names it: it stays.
    assert file.exists()


def test_backup_is_refused_while_files_are_deleted(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_deletions, "MAX_WAIT_SECONDS", 0)
    with file_deletions.deleting(settings.database()), pytest.raises(NotPossible, match="deletes files"):
        back_up(settings, repository)


def test_suspended_deletion_blocks_no_backup_and_does_not_go_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = file_deletions.SESSION_LIMIT.replace("9s", "300ms")
    monkeypatch.setattr(file_deletions, "SESSION_LIMIT", shorter)
    monkeypatch.setattr(file_deletions, "MAX_WAIT_SECONDS", 30)

    def resumed() -> None:
        with file_deletions.deleting(settings.database()) as keep_lock:
            with file_deletions.held_off(settings.database()):
                pass
            keep_lock()

    with pytest.raises(OperationalError):
        resumed()


def test_failed_dump_leaves_no_backup(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dump.dumping
    monkeypatch.setattr(dump, "dumping", lambda url: real(f"{url}_missing"))

    with pytest.raises(dump.DumpFailed, match="does not exist"):
        back_up(settings, repository)
    assert repository.names() == []


@pytest.mark.slow
def test_verification_restores_beside_the_running_system(settings: Settings, repository: Repository) -> None:
    arrived(settings)
    claimed(settings)
    back_up(settings, repository)
    printed = io.StringIO()

    found = restore.verify(settings, Console(file=printed, width=200), repository, repository.latest(), None)

    assert (found.studies, found.reports, found.violations) == (2, 1, 0)
    assert "verified: 2 studies, 1 reports" in printed.getvalue()
    assert "RTO" in printed.getvalue()
    with transaction(settings.database()) as session:
        assert session.scalars(select(Backup)).one().verified_at is not None
        assert session.scalars(select(Job.state).where(Job.state == "running")).one()
        assert len(session.scalars(select(Study)).all()) == 2
