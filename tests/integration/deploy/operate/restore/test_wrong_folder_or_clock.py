"""`prelim backup` in the folder of another installation, after a clock went back, and after its session was lost."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from sqlalchemy import make_url, select, text
from structlog.testing import capture_logs

from db.errors import ConfigurationError, NotPossible
from db.migrations.upgrade import migrate
from db.models import Backup, Study
from db.session import connect, engine, reading, transaction
from deploy.operate.backup import create, folder_lock, installation, restore
from deploy.operate.backup.contents import INSTALLATION
from deploy.operate.backup.sealing import BackupDamaged
from tests.integration.deploy.operate.restore.place import arrived, back_up, key_file, prelim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository

SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND mode = 'ShareLock'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def with_clock(monkeypatch: pytest.MonkeyPatch, ahead: dt.timedelta) -> None:
    now = create._now
    monkeypatch.setattr(create, "_now", lambda url: now(url) + ahead)


def restored(place: Settings, repository: Repository) -> int:
    restore.restore(place, repository, repository.latest())
    return restore.finish(place, Console(quiet=True), repository)


def studies(settings: Settings) -> set[str]:
    with reading(settings.database()) as session:
        return set(session.scalars(select(Study.study_instance_uid)))


def test_backup_after_a_clock_went_back_is_kept_and_is_the_latest(
    settings: Settings, repository: Repository, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_clock(patch, dt.timedelta(days=300))
        earlier = [back_up(settings, repository, keep=2) and repository.latest() for _ in range(2)]
    arrived(settings)

    _, printed = back_up(settings, repository, keep=2)
    assert "clock went back" in printed
    assert repository.names() == [earlier[-1], repository.latest()]
    assert restored(empty, repository) == 0
    assert studies(empty) == studies(settings)
    back_up(settings, repository, keep=2)
    assert earlier[-1] not in repository.names()


def test_folder_of_another_installation_is_refused_and_unchanged(
    settings: Settings, repository: Repository, empty: Settings, tmp_path: Path
) -> None:
    migrate(empty.database())
    back_up(settings, repository, keep=1)
    before = {path: path.read_bytes() for path in (tmp_path / "backups").rglob("*") if path.is_file()}

    with pytest.raises(ConfigurationError, match="of another installation"):
        back_up(empty, repository, keep=1)
    assert {path: path.read_bytes() for path in (tmp_path / "backups").rglob("*") if path.is_file()} == before
    back_up(settings, repository, keep=1)


@pytest.mark.parametrize("is_of_earlier_release", [False, True])
def test_restored_installation_continues_its_folder(
    settings: Settings,
    repository: Repository,
    empty: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_of_earlier_release: bool,
) -> None:
    with monkeypatch.context() as patch:
        if is_of_earlier_release:
            patch.setattr(installation, "require", lambda _url, _repository: None)
        back_up(settings, repository)
    installation.require(settings.database(), repository)

    assert restored(empty, repository) == 0
    back_up(empty, repository)
    with pytest.raises(NotPossible, match="no restore of this database is unfinished"):
        restore.finish(empty, Console(quiet=True), repository)


@pytest.fixture
def guest_url(settings: Settings) -> Iterator[str]:
    """The database for a user who may read and write its tables, and owns none."""
    parsed, name = make_url(settings.database()), f"guest_{uuid.uuid4().hex}"
    with closing(connect(settings.database())) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{parsed.password}'".encode())
        connection.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {name}".encode())
        url = parsed.set(username=name).render_as_string(hide_password=False)
        yield url
        engine(url).dispose()
        connection.execute(f"DROP ROLE {name}".encode())


def test_tables_of_another_user_are_backed_up_only_to_a_folder_of_no_installation(
    repository: Repository, guest_url: str
) -> None:
    repository.prepare()
    with capture_logs() as logs:
        installation.require(guest_url, repository)
    assert [line["event"] for line in logs] == ["backup.installation_not_noted"]

    repository.note(INSTALLATION, str(uuid.uuid4()))
    with pytest.raises(ConfigurationError, match="perhaps another"):
        installation.require(guest_url, repository)


def test_damaged_identifier_of_a_folder_is_not_replaced(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    back_up(settings, repository)
    path = repository.root / f"{INSTALLATION}.sealed"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(BackupDamaged, match=INSTALLATION):
        back_up(settings, repository)
    assert restored(empty, repository) == 0


def test_restore_prints_how_many_files_are_lost_although_its_end_fails(
    settings: Settings, repository: Repository, empty: Settings, tmp_path: Path
) -> None:
    back_up(settings, repository)
    next((tmp_path / "backups" / "files" / "spool" / "store").rglob("*.sealed")).unlink()
    arguments = ("restore", str(tmp_path / "backups"), "--key-file", key_file(tmp_path))
    fails = "from deploy.operate.backup import again\nagain.include = lambda *_: 1 / 0"

    made = prelim(empty, *arguments, before=fails)
    assert "1 files could not be restored: the log names them" in made.stdout
    assert made.returncode
    completed = prelim(empty, *arguments, "--finish")
    assert "completed the restore" in completed.stdout
    assert completed.returncode == 1


def test_backup_whose_session_was_lost_does_not_count(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = create._copy

    def copy_and_lose(*arguments: Any, **options: Any) -> Any:
        copied = copy(*arguments, **options)
        with transaction(settings.database()) as session:
            assert session.execute(text(SESSIONS)).all()
        return copied

    with monkeypatch.context() as patch:
        patch.setattr(create, "_copy", copy_and_lose)
        with pytest.raises(NotPossible, match="keeps files from being deleted"):
            back_up(settings, repository)
    assert repository.names() == []
    with reading(settings.database()) as session:
        assert session.scalars(select(Backup)).all() == []
    back_up(settings, repository)
    assert len(repository.complete()) == 1


def test_nothing_is_deleted_while_a_restore_reads_the_folder(
    settings: Settings, repository: Repository, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(settings, repository)
    older, read = repository.latest(), repository.read

    def read_beside_a_backup(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(repository, "read", read)
            assert "nothing was deleted" in back_up(settings, repository, keep=1)[1]
            return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(repository, "read", read_beside_a_backup)
        assert restore.restore(empty, repository, older).lost == 0
    back_up(settings, repository, keep=1)
    assert len(repository.names()) == 1


def test_reader_holds_its_lock_by_a_file_that_it_may_only_read(repository: Repository) -> None:
    """A network file system refuses another; and root, who verifies, leaves no file of its own."""
    repository.prepare()
    path = repository.root / folder_lock.NAME
    with folder_lock.shared(repository.root):
        held = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == path.resolve()]
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in held] == [os.O_RDONLY]
        with folder_lock.exclusive(repository.root) as may_delete:
            assert not may_delete

    path.unlink()
    with capture_logs() as logs, folder_lock.shared(repository.root):
        assert [line["event"] for line in logs] == ["restore.folder_not_locked"]
    assert not path.exists()


@pytest.mark.parametrize("is_mount_point", [False, True])
def test_backup_of_a_data_directory_without_a_spool_lacks_it(
    settings: Settings, repository: Repository, tmp_path: Path, *, is_mount_point: bool
) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM instances"))
    assert not back_up(settings, repository)[0].absent

    operations = settings.operations.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    if is_mount_point:
        (tmp_path / "elsewhere" / "spool").mkdir(parents=True)
    made, printed = back_up(settings.model_copy(update={"operations": operations}), repository)
    assert made.absent.files == 1
    assert "not in the backup: spool: no folder, and the database has studies" in printed


def test_folder_with_two_names_is_in_the_backup_under_both(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    reference = settings.operations.data_dir / "reference"
    (reference / "b" / "c").mkdir(parents=True)
    (reference / "b" / "c" / "vectors").write_bytes(b"vectors")
    (reference / "a").mkdir()
    (reference / "a" / "link").symlink_to(reference / "b" / "c")

    back_up(settings, repository)
    restored(empty, repository)
    for name in ("a/link", "b/c"):
        assert (empty.operations.data_dir / "reference" / name / "vectors").read_bytes() == b"vectors"


def test_folder_behind_a_symbolic_link_is_in_the_backup(
    settings: Settings, repository: Repository, empty: Settings, tmp_path: Path
) -> None:
    disk, index = tmp_path / "disk", settings.operations.data_dir / "reference" / "index"
    (disk / "part").mkdir(parents=True)
    (disk / "part" / "vectors").write_bytes(b"vectors")
    index.parent.mkdir()
    index.symlink_to(disk)
    (disk / "back").symlink_to(index.parent)

    back_up(settings, repository)
    restored(empty, repository)
    assert (empty.operations.data_dir / "reference" / "index" / "part" / "vectors").read_bytes() == b"vectors"
