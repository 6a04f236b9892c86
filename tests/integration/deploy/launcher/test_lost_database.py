"""An empty database beside files of studies is refused: it is not the one that had their reports."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.errors import ConfigurationError
from db.migrations.upgrade import migrate
from db.models import Quarantined, Study
from db.session import engine, transaction
from db.settings import Settings
from deploy.launcher.lost_database import refuse_lost_database
from deploy.operate.doctor.database_content import examine_schema
from deploy.operate.doctor.finding import Installation, Level
from dicom_listener.recovery import noted_timeline
from dicom_listener.spool.durable import Spool
from tests.conftest import REPOSITORY
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
    made = Settings(data_dir=tmp_path, database_url=empty_url)
    Spool(made.spool).prepare()
    return made


def prelim(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PRELIM_DATA_DIR": str(settings.operations.data_dir),
        "PRELIM_DATABASE_URL": settings.database(),
    }
    command = [sys.executable, "-m", "deploy.cli.entry", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def write_stored_file(settings: Settings) -> None:
    (Spool(settings.spool).store / "ab" / f"{uuid.uuid4()}.dcm").write_bytes(b"DICM")


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
    path = Spool(settings.spool).quarantine / "ab.dcm"
    path.write_bytes(b"DICM")
    write_stored_file(settings)
    note_another_cluster(settings)
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
    with transaction(settings.database()) as session:
        current = noted_timeline.current_timeline(session)
    noted_timeline.note(Spool(settings.spool).timeline, current)

    refuse_lost_database(settings)


def test_doctor_names_the_stored_files_beside_an_empty_database(settings: Settings) -> None:
    write_stored_file(settings)

    finding = examine_schema(Installation(settings))

    assert finding.level is Level.FAULT
    assert "the database is empty" in finding.found
