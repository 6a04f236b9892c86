"""Incomplete backups: they stay beside the complete ones, do not count as one, and a restore names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update

from db.models import Instance
from db.session import transaction
from deploy.operate.backup import restore
from tests.integration.deploy.operate.restore.place import (
    arrived,
    back_up,
    key_file,
    prelim,
    stored_files,
)

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository


def test_incomplete_backups_do_not_count_among_those_that_are_kept(settings: Settings, repository: Repository) -> None:
    complete = []
    for _ in range(3):
        back_up(settings, repository)
        complete.append(repository.latest())
    file = stored_files(settings)[0]
    content = file.read_bytes()
    # The objects have UIDs, and sizes, of different lengths.
    of_file = Instance.file_path == file.relative_to(settings.operations.data_dir).as_posix()
    # Another size: no earlier copy is one of it.
    file.write_bytes(b"")
    with transaction(settings.database()) as session:
        session.execute(update(Instance).where(of_file).values(file_bytes=1))
    incomplete = []
    for _ in range(3):
        back_up(settings, repository, keep=2)
        incomplete.append(repository.latest())
    file.write_bytes(content)
    with transaction(settings.database()) as session:
        session.execute(update(Instance).where(of_file).values(file_bytes=len(content)))

    back_up(settings, repository, keep=2)

    assert repository.names() == [complete[-1], *incomplete, repository.latest()]
    assert repository.complete() == [complete[-1], repository.latest()]
    back_up(settings, repository, keep=1)
    assert repository.names() == [repository.latest()]


def test_backups_all_stay_while_fewer_are_complete_than_are_to_be_kept(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    file = stored_files(settings)[0]
    elsewhere = file.rename(tmp_path / "elsewhere")
    back_up(settings, repository)
    elsewhere.rename(file)
    first = repository.latest()

    back_up(settings, repository, keep=2)

    assert repository.names() == [first, *repository.complete()]


def test_backup_without_a_readable_manifest_is_not_complete(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    back_up(settings, repository)
    damaged = repository.latest()
    (tmp_path / "backups" / "backups" / damaged / "manifest.sealed").write_bytes(b"")

    back_up(settings, repository, keep=1)

    assert repository.names() == repository.complete() != [damaged]


def test_restore_prints_how_many_files_the_backup_lacks_and_which_one_is_complete(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    arrived(settings)
    back_up(settings, repository)
    complete = repository.latest()
    arrived(settings)
    stored_files(settings)[-1].unlink()
    back_up(settings, repository)

    done = prelim(empty, "restore", str(tmp_path / "backups"), "--key-file", key_file(tmp_path))

    assert f"backup {repository.latest()} lacks 1 of its files" in done.stdout
    assert f"the latest complete one is {complete} (--name {complete})" in done.stdout
    assert restore.lacking(repository, complete) is None
