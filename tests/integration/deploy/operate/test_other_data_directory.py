"""Commands that delete or index files, with another data directory than that of the database: nothing is changed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from db.errors import ConfigurationError
from db.session import transaction
from db.storage.errors import Unavailable
from db.studies.deletion.patients import Found
from deploy.embedded.server_process import free_port
from deploy.operate import audit, quarantined_files, report_images, retain
from deploy.operate.canary import canary
from deploy.operate.erasure import erase
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive
from tests.object_storage import settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings

QUIET = Console(quiet=True)
NOTHING = Found([], set(), set(), 0, 0, 0, 0, 0, 0)
COMMANDS = {
    "retain": lambda settings: retain.run(settings, QUIET, dt.timedelta(days=9), images_only=False, dry_run=False),
    "erase": lambda settings: erase.run(settings, QUIET, "P-1", None, NOTHING),
    "erase, continued": lambda settings: erase.resume(settings, QUIET),
    "quarantine take": lambda settings: quarantined_files.take(settings, QUIET, "1.2.3"),
    "move-images": lambda settings: report_images.move(settings, QUIET, "files"),
    "audit --repair": lambda settings: audit.run(settings, QUIET, repair=True, scope=audit.EVERYTHING),
}


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with a stored object, and a file whose deletion was interrupted."""
    settings = settings_for(tmp_path / "data", database_url=SecretStr(database_url))
    receive(settings, image())
    indexer.run_once(settings)
    with transaction(database_url) as session:
        session.execute(
            text("INSERT INTO file_deletions (file_path, in_storage) VALUES (:path, false)"), {"path": GONE}
        )
    return settings


GONE = "spool/store/ab/gone.dcm"
CONTENTS = ("nothing", "empty mount point", "another installation")


def elsewhere(settings: Settings, path: Path, content: str) -> Settings:
    """The settings with another data directory, of CONTENTS."""
    other = settings.model_copy(
        update={"operations": settings.operations.model_copy(update={"data_dir": path / "other"})}
    )
    if content == "empty mount point":
        other.spool.mkdir(parents=True)
    if content == "another installation":
        for folder in (Spool(other.spool).store / "ab", path / "other" / report_images.image_files.FOLDER / "ab"):
            folder.mkdir(parents=True)
            (folder / "stored.dcm").write_bytes(b"object")
    return other


def state(settings: Settings, path: Path) -> tuple[list[str], dict[Path, bytes]]:
    with transaction(settings.database()) as session:
        tables = ("studies", "instances", "file_deletions", "patient_erasures", "audit_rows")
        rows = [str(session.execute(text(f"SELECT * FROM {table}")).all()) for table in tables]
    return rows, {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_command_in_another_data_directory_changes_nothing(
    settings: Settings, tmp_path: Path, name: str, content: str
) -> None:
    other = elsewhere(settings, tmp_path, content)
    before = state(settings, tmp_path)

    with pytest.raises(ConfigurationError, match="PRELIM_DATA_DIR|another one|is missing"):
        COMMANDS[name](other)
    assert state(settings, tmp_path) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_command_waits_for_the_object_storage_to_tell_whose_data_directory_it_is(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    """The spool notes another database, and the objects that would decide are out of reach."""
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET object_sha256 = 'd', storage_due_at = now()"))
    Spool(settings.spool).timeline.unlink(missing_ok=True)
    for path in Spool(settings.spool).store.rglob("*.dcm"):
        path.unlink()
    away = settings.replace(**settings_of(f"http://127.0.0.1:{free_port()}"))
    before = state(settings, tmp_path)

    with pytest.raises(Unavailable):
        COMMANDS[name](away)
    assert state(settings, tmp_path) == before


def test_canary_in_another_data_directory_leaves_the_notes_of_other_deletions(
    settings: Settings, tmp_path: Path
) -> None:
    with transaction(settings.database()) as session:
        uid = session.execute(
            text(
                "UPDATE studies SET state = 'failed', reason = 'worker_lost', settled_at = now(),"
                " settle_reason = 'quiet' RETURNING study_instance_uid"
            )
        ).scalar_one()
        session.execute(
            text(
                "INSERT INTO canaries (study_instance_uid, begun_at, ended_at, problem)"
                " VALUES (:uid, now(), now(), 'p')"
            ),
            {"uid": uid},
        )
    canary.delete_ended(elsewhere(settings, tmp_path, "nothing"))

    with transaction(settings.database()) as session:
        assert GONE in session.scalars(text("SELECT file_path FROM file_deletions")).all()
