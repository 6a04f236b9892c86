"""An empty database beside files of studies is refused: it is not the one that had their reports."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from db.errors import ConfigurationError
from db.migrations.upgrade import migrate
from db.models import Quarantined, Study
from db.session import engine, transaction
from db.settings import Settings
from db.studies.deletion import file_deletions
from deploy.cli.run import app
from deploy.launcher.lost_database import refuse_lost_database
from deploy.operate.doctor.database_content import examine_schema
from deploy.operate.doctor.finding import Installation, Level
from dicom_listener import dispatch
from dicom_listener.recovery import noted_timeline
from dicom_listener.spool.durable import Spool
from tests.conftest import REPOSITORY
from tests.integration.db.conftest import Arrivals
from tests.object_storage import BUCKET, PREFIX, Put, settings_of
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.embedded.postgres import Postgres
    from tests.object_storage import FakeStorage


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """A database without tables, as a new data folder of PostgreSQL has."""
    name = f"empty_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name}")
    url = database_named(postgres, name)
    yield url
    engine(url).dispose()
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(empty_url: str, tmp_path: Path) -> Settings:
    """An installation that begins: nothing is stored."""
    return installation(tmp_path, empty_url)


def installation(folder: Path, url: str) -> Settings:
    made = Settings(data_dir=folder, database_url=url)
    Spool(made.spool).prepare()
    return made


def prelim(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PRELIM_DATA_DIR": str(settings.operations.data_dir),
        "PRELIM_DATABASE_URL": settings.database(),
    }
    command = [sys.executable, "-m", "deploy.cli.entry", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture
def migrated(database_url: str, tmp_path: Path) -> Settings:
    """An installation whose database has tables and no rows."""
    return installation(tmp_path, database_url)


def write_stored_file(settings: Settings) -> Path:
    path = Spool(settings.spool).store / "ab" / f"{uuid.uuid4().hex}.dcm"
    path.write_bytes(b"DICM")
    return path


def add_quarantined(settings: Settings, *, there: bool = True) -> None:
    """Add a row of a file in quarantine, which is there or that of another site."""
    path = Spool(settings.spool).quarantine / "ab.dcm"
    if there:
        path.write_bytes(b"DICM")
    with transaction(settings.database()) as session:
        session.add(
            Quarantined(
                file_path=path.relative_to(settings.operations.data_dir).as_posix(),
                file_bytes=4,
                sha256="",
                reason="unreadable",
                detail="",
                received_at=dt.datetime.now(dt.UTC),
            )
        )


def current(settings: Settings) -> noted_timeline.Timeline:
    with transaction(settings.database()) as session:
        return noted_timeline.current_timeline(session)


def note_current(settings: Settings, **changes: str) -> None:
    noted_timeline.note(Spool(settings.spool).timeline, current(settings)._replace(**changes))


def note_another_cluster(settings: Settings) -> None:
    Spool(settings.spool).timeline.write_text(json.dumps(["7000000000000000001", "00000001"]))


def has_tables(settings: Settings) -> bool:
    with transaction(settings.database()) as session:
        return session.scalar(text("SELECT to_regclass('studies')")) is not None


def test_migrate_refuses_an_empty_database_beside_stored_files(settings: Settings) -> None:
    write_stored_file(settings)

    refused = prelim(settings, "migrate")

    assert refused.returncode == 2
    assert f"the database is empty, but {settings.spool / 'store'} has files of studies" in refused.stderr
    assert "`prelim restore` a backup" in refused.stderr
    assert "--new-database" in refused.stderr
    assert not has_tables(settings)


def test_migrate_accepts_an_empty_database_that_the_operator_names_as_new(settings: Settings) -> None:
    write_stored_file(settings)
    note_another_cluster(settings)

    accepted = prelim(settings, "migrate", "--new-database")

    assert accepted.returncode == 0, accepted.stderr
    assert has_tables(settings)
    refuse_lost_database(settings)
    assert prelim(settings, "migrate").returncode == 0


@pytest.mark.parametrize("folder", ["spool/quarantine", "report_images/ab/cd"])
def test_other_files_that_only_a_database_names_are_a_reason_too(settings: Settings, folder: str) -> None:
    (settings.operations.data_dir / folder).mkdir(parents=True, exist_ok=True)
    (settings.operations.data_dir / folder / "file").write_bytes(b"")

    with pytest.raises(ConfigurationError, match="the database is empty"):
        refuse_lost_database(settings)


def test_objects_in_the_object_storage_are_a_reason_too(
    settings: Settings, object_storage: FakeStorage, tmp_path: Path
) -> None:
    there = settings_of(f"http://127.0.0.1:{object_storage.port}")
    moved = Settings(data_dir=tmp_path, database_url=settings.database(), **there)
    refuse_lost_database(moved)
    object_storage.objects[f"{PREFIX}/ab/{uuid.uuid4()}.dcm"] = Put(b"DICM")

    with pytest.raises(ConfigurationError, match=f"the object storage .*{BUCKET}.* has files of studies"):
        refuse_lost_database(moved)


def test_files_of_the_inbox_are_received_without_a_database(settings: Settings) -> None:
    (Spool(settings.spool).inbox / f"{uuid.uuid4()}.dcm").write_bytes(b"DICM")

    refuse_lost_database(settings)


def test_dispatcher_refuses_a_migrated_database_of_another_cluster_without_studies(settings: Settings) -> None:
    """Another process, which does not see the files, has migrated it."""
    migrate(settings.database())
    write_stored_file(settings)
    note_another_cluster(settings)

    refused = prelim(settings, "dispatch")

    assert refused.returncode == 2
    assert "names none of the stored files" in refused.stderr
    with transaction(settings.database()) as session:
        session.add(Study(study_instance_uid="1.2.3"))
    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        refuse_lost_database(settings)


def test_restored_database_of_another_cluster_names_files_and_is_used(settings: Settings) -> None:
    migrate(settings.database())
    add_quarantined(settings)
    write_stored_file(settings)
    note_another_cluster(settings)
    os.utime(Spool(settings.spool).timeline, (time.time() + 1,) * 2)

    refuse_lost_database(settings)


def test_objects_of_other_programs_are_no_reason(
    settings: Settings, object_storage: FakeStorage, tmp_path: Path
) -> None:
    there = settings_of(f"http://127.0.0.1:{object_storage.port}")
    object_storage.objects[f"{PREFIX}/doctor/{uuid.uuid4()}"] = Put(b"")

    refuse_lost_database(Settings(data_dir=tmp_path, database_url=settings.database(), **there))


def test_database_of_the_same_cluster_may_have_no_studies(settings: Settings) -> None:
    migrate(settings.database())
    write_stored_file(settings)
    note_current(settings)

    refuse_lost_database(settings)


def test_doctor_names_the_stored_files_beside_an_empty_database(settings: Settings) -> None:
    write_stored_file(settings)

    finding = examine_schema(Installation(settings))

    assert finding.level is Level.FAULT
    assert "the database is empty" in finding.found


def test_missing_note_beside_files_that_no_row_names_is_refused(migrated: Settings) -> None:
    """Restored empty, or of another site: it has tables, as the right one does."""
    write_stored_file(migrated)

    for command in ("migrate", "dispatch"):
        refused = prelim(migrated, command)
        assert refused.returncode == 2
        assert "names none of the stored files" in refused.stderr
        assert f"{Spool(migrated.spool).timeline}, which notes the database of the files, is missing" in refused.stderr
    add_quarantined(migrated, there=False)
    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        refuse_lost_database(migrated)


def test_missing_note_beside_an_older_backup_of_the_right_database_is_accepted(migrated: Settings) -> None:
    write_stored_file(migrated)
    add_quarantined(migrated)

    refuse_lost_database(migrated)


def test_missing_note_is_accepted_while_files_wait_for_their_rows(migrated: Settings) -> None:
    """The first dispatcher was killed before it committed the rows."""
    stored = write_stored_file(migrated)
    (Spool(migrated.spool).inbox / stored.name).hardlink_to(stored)

    refuse_lost_database(migrated)


def test_files_to_be_deleted_need_no_row(migrated: Settings) -> None:
    stored = write_stored_file(migrated)
    with transaction(migrated.database()) as session:
        file_deletions.note(session, [stored.relative_to(migrated.operations.data_dir).as_posix()])

    refuse_lost_database(migrated)


def test_note_of_another_database_of_the_same_cluster_is_no_match(migrated: Settings) -> None:
    """Dropped, created and restored empty, or the URL names the database of another site."""
    write_stored_file(migrated)
    note_current(migrated, database="1")

    with pytest.raises(ConfigurationError, match="it is another one than before"):
        refuse_lost_database(migrated)


def test_note_of_an_earlier_release_is_compared_too(migrated: Settings) -> None:
    note = Spool(migrated.spool).timeline
    note.write_text(json.dumps(current(migrated)[:2]))
    refuse_lost_database(migrated)
    write_stored_file(migrated)
    os.utime(note, (time.time() + 1,) * 2)

    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        refuse_lost_database(migrated)


@pytest.mark.parametrize(
    "content", [b"", b'["7000', b"{}", b"null", b'["1"]', b'["1", 2]', b'["1", "2", "3", "4"]', b"\xff"]
)
def test_damaged_note_is_refused_with_what_to_do(migrated: Settings, content: bytes) -> None:
    note = Spool(migrated.spool).timeline
    write_stored_file(migrated)
    note.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"timeline\.json is damaged.*: delete it, and the rows"):
        refuse_lost_database(migrated)
    assert note.read_bytes() == content


def test_note_that_cannot_be_read_is_named(migrated: Settings) -> None:
    Spool(migrated.spool).timeline.mkdir()

    refused = prelim(migrated, "dispatch")

    assert refused.returncode == 2
    assert "timeline.json: it is no regular file" in refused.stderr


@pytest.mark.parametrize("content", [None, b""])
def test_operator_may_name_the_database_although_the_note_is_missing_or_damaged(
    migrated: Settings, content: bytes | None
) -> None:
    write_stored_file(migrated)
    if content is not None:
        Spool(migrated.spool).timeline.write_bytes(content)

    assert prelim(migrated, "migrate", "--new-database").returncode == 0
    refuse_lost_database(migrated)


def test_upgrade_does_not_wait_for_an_object_storage_that_is_away(
    migrated: Settings, object_storage: FakeStorage, tmp_path: Path
) -> None:
    there = settings_of(f"http://127.0.0.1:{object_storage.port}")
    object_storage.objects[f"{PREFIX}/ab/{uuid.uuid4()}.dcm"] = Put(b"DICM")
    moved = Settings(data_dir=tmp_path, database_url=migrated.database(), **there)
    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        refuse_lost_database(moved)
    object_storage.away = True

    refuse_lost_database(moved)


def test_missing_spool_is_that_of_a_process_without_files(migrated: Settings, tmp_path: Path) -> None:
    """An init container, for example, has no data directory."""
    refuse_lost_database(Settings(data_dir=tmp_path / "none", database_url=migrated.database()))


def test_dispatcher_refuses_rows_without_any_file(migrated: Settings) -> None:
    """The data directory is not mounted, or the database is that of another site."""
    (Spool(migrated.spool).inbox / f"{uuid.uuid4().hex}.dcm").write_bytes(b"DICM")
    Arrivals(migrated.database()).image()

    refused = prelim(migrated, "dispatch")
    assert refused.returncode == 2
    assert f"names files, but none are stored in {migrated.spool}" in refused.stderr
    assert "mount the data directory" in refused.stderr
    # A container that only migrates has no data directory.
    assert prelim(migrated, "migrate").returncode == 0
    assert prelim(migrated, "migrate", "--new-database").returncode == 0
    refuse_lost_database(migrated, needs_files=True)


def note_of_before(settings: Settings) -> None:
    """Let the note be of another database, seen after all rows and before the times of all files."""
    note_another_cluster(settings)
    later = time.time() + 3600
    os.utime(Spool(settings.spool).timeline, (later,) * 2)
    for path in settings.spool.rglob("*.dcm"):
        os.utime(path, (later + 60,) * 2)


def test_files_copied_without_their_times_are_those_of_a_moved_database(migrated: Settings) -> None:
    add_quarantined(migrated)
    write_stored_file(migrated)
    Arrivals(migrated.database()).image()
    note_of_before(migrated)

    refuse_lost_database(migrated, needs_files=True)


def test_rows_of_files_received_since_the_note_are_no_match(migrated: Settings) -> None:
    """The data directory is not mounted: what arrives now gets rows in the wrong database, too."""
    add_quarantined(migrated)
    Arrivals(migrated.database()).image()
    with transaction(migrated.database()) as session:
        session.execute(text("UPDATE quarantine SET indexed_at = clock_timestamp() + interval '2 hours'"))
    note_of_before(migrated)

    with pytest.raises(ConfigurationError, match="names files, but none are stored"):
        refuse_lost_database(migrated, needs_files=True)


def test_dispatcher_has_its_number_of_connections_although_the_database_was_examined_before(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    monkeypatch.setattr(dispatch, "run", lambda settings: pools.append(engine(settings.database()).pool))
    values = {"PRELIM_DATA_DIR": str(tmp_path), "PRELIM_DATABASE_URL": database_url}

    result = CliRunner().invoke(app, ["dispatch"], env=values)

    assert result.exit_code == 0, result.output
    assert [pool.size() for pool in pools] == [dispatch.CONNECTIONS]
