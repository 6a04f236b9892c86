"""`prelim backup` in the folder of another installation, after a clock went back, and after its session was lost."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from sqlalchemy import select, text
from structlog.testing import capture_logs

from db.errors import ConfigurationError, NotPossible
from db.migrations.upgrade import migrate
from db.models import Backup, Study
from db.session import reading, transaction
from deploy.operate.backup import create, installation, readers, restore
from tests.integration.deploy.operate.restore.place import arrived, back_up

if TYPE_CHECKING:
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
    path = repository.root / readers.NAME
    with readers.reading(repository.root):
        held = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == path.resolve()]
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in held] == [os.O_RDONLY]
        with readers.deleting(repository.root) as may_delete:
            assert not may_delete

    path.unlink()
    with capture_logs() as logs, readers.reading(repository.root):
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
