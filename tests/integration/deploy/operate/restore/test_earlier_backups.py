"""`prelim backup` leaves earlier backups as they are, and does not count as one if it lacks files."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from sqlalchemy import func, select, update

from db.errors import ConfigurationError
from db.models import Backup, Process, ReferenceSnapshot
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.release import release
from db.session import transaction
from deploy.operate.backup import restore
from deploy.operate.backup.repository import Repository
from deploy.operate.backup.sealing import BackupDamaged
from tests.integration.deploy.operate.restore.place import (
    KEY,
    OTHER_KEY,
    arrived,
    back_up,
    key_file,
    prelim,
    sealed,
    stored_files,
)

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def restored(place: Settings, repository: Repository, name: str) -> int:
    restore.restore(place, repository, name)
    return restore.finish(place, Console(quiet=True), repository)


def recorded(settings: Settings) -> list[str]:
    """The names of the backups that count."""
    with transaction(settings.database()) as session:
        return list(session.scalars(select(Backup.name).order_by(Backup.name)))


def test_another_key_is_refused_before_anything_is_written(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    back_up(settings, repository)
    folder = tmp_path / "backups"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    refused = prelim(settings, "backup", str(folder), "--key-file", key_file(tmp_path, OTHER_KEY))

    assert refused.returncode == 2
    assert "this key does not open" in refused.stderr
    assert "another folder for a new key" in refused.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert restored(empty, repository, repository.latest()) == 0


def test_another_key_is_refused_beside_the_files_of_an_interrupted_first_backup(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    back_up(settings, repository)
    shutil.rmtree(tmp_path / "backups" / "backups")
    (tmp_path / "backups" / "erasures.sealed").unlink()

    with pytest.raises(ConfigurationError, match="this key does not open"):
        back_up(settings, Repository(tmp_path / "backups", OTHER_KEY))
    back_up(settings, repository)


@pytest.mark.parametrize("content", [b"", b"of another object"], ids=["empty", "other"])
def test_stored_file_that_is_not_that_of_its_row_replaces_no_copy(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings, content: bytes
) -> None:
    back_up(settings, repository)
    older, before = repository.latest(), sealed(tmp_path / "backups")
    damaged = stored_files(settings)[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(content.ljust(len(whole)) if content else b"")
    arrived(settings)

    made, printed = back_up(settings, repository, keep=1)

    if content:  # the size is that of the row: the copy is taken, and `prelim audit` finds the file
        assert not made.absent
    else:
        assert f"only as an earlier copy in the backup: {damaged.relative_to(settings.operations.data_dir)}" in printed
        assert "another size than in its row" in printed
        assert recorded(settings) == [older]
        assert restored(empty, repository, older) == 0
    after = sealed(tmp_path / "backups")
    assert {path: after[path] for path in before} == before


def test_file_that_differs_from_its_row_at_its_first_copy_is_named_and_not_taken(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    file = stored_files(settings)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    made, printed = back_up(settings, repository)

    assert made.absent.files == 1
    assert f"not in the backup: {file.relative_to(settings.operations.data_dir)}: another digest" in printed
    assert not any(file.name in path.name for path in sealed(tmp_path / "backups"))
    file.write_bytes(whole)
    assert not back_up(settings, repository)[0].absent


def test_damaged_copy_stays_and_a_new_one_is_made_beside_it(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    back_up(settings, repository)
    path = next(iter(sealed(tmp_path / "backups")))
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    damaged, older = path.read_bytes(), repository.latest()

    back_up(settings, repository)
    copies = len(sealed(tmp_path / "backups"))
    back_up(settings, repository)

    assert path.read_bytes() == damaged
    assert len(sealed(tmp_path / "backups")) == copies == 3
    latest = repository.latest()
    assert [
        restore.verify(settings, Console(quiet=True), repository, one, None).violations for one in (older, latest)
    ] == [
        1,
        0,
    ]


def test_lost_store_is_one_sentence_an_exit_status_and_no_backup_that_counts(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    back_up(settings, repository)
    older, before = repository.latest(), sealed(tmp_path / "backups")
    arrived(settings)
    store = settings.spool / "store"
    store.rename(tmp_path / "store of an unmounted volume")

    made = prelim(settings, "backup", str(tmp_path / "backups"), "--key-file", key_file(tmp_path), "--keep", "1")

    assert made.returncode == 1, made.stderr
    assert "only as an earlier copy in the backup: 2 files below spool/store: no file" in made.stdout
    assert "not in the backup: spool/store/" in made.stdout
    assert "no earlier one was deleted" in made.stdout
    assert recorded(settings) == [older]
    assert before.items() <= sealed(tmp_path / "backups").items()
    # It is still the newest: what an earlier backup had of its files is in it.
    assert repository.manifest(repository.latest()).absent == 1
    assert restored(empty, repository, repository.latest()) == 1
    assert len([file for file in stored_files(empty) if file.exists()]) == 2


def test_lost_reference_index_is_named_with_its_remedy(settings: Settings, repository: Repository) -> None:
    add_index(settings, "reference/a", "a")

    made, printed = back_up(settings, repository)

    assert "not in the backup: reference/a: no folder" in printed
    assert "`prelim index build`" in printed
    assert made.absent.files == 1


def add_index(settings: Settings, folder: str, model: str) -> None:
    with transaction(settings.database()) as session:
        session.add(ReferenceSnapshot(directory=folder, model_digest=model, cases=1))


@pytest.mark.parametrize("seconds", [0, 86400], ids=["living worker", "last worker"])
def test_lost_index_of_a_retired_checkpoint_is_named_and_the_backup_is_complete(
    settings: Settings, repository: Repository, seconds: int
) -> None:
    add_index(settings, "reference/of a retired checkpoint", "a")
    with transaction(settings.database()) as session:
        heartbeats.record(session, Role.WORKER, {"model": "b"}, process="host:1")
        earlier = func.now() - dt.timedelta(seconds=seconds)
        session.execute(update(Process).values(seen_at=earlier))

    made, printed = back_up(settings, repository)

    assert "not in the backup, and not needed: reference/of a retired checkpoint" in printed
    assert not made.absent
    assert recorded(settings) == repository.complete()
    add_index(settings, "reference/in use", "b")
    assert back_up(settings, repository)[0].absent.files == 1


def test_backups_are_deleted_again_once_all_files_are_there(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    back_up(settings, repository)
    file = stored_files(settings)[0]
    elsewhere = file.rename(tmp_path / "elsewhere")
    back_up(settings, repository, keep=1)
    assert len(repository.names()) == 2
    elsewhere.rename(file)

    back_up(settings, repository, keep=1)

    assert recorded(settings)[-1:] == repository.names()


def test_nothing_is_deleted_while_the_list_of_a_kept_backup_is_damaged(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    for _ in range(2):
        back_up(settings, repository)
    names = repository.names()
    damaged = tmp_path / "backups" / "backups" / names[-1] / "files.sealed"
    damaged.write_bytes(b"")

    with pytest.raises(BackupDamaged):
        repository.forget(1)
    assert repository.names() == names


def test_key_that_other_users_can_read_is_named(settings: Settings, tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    key.write_text(KEY.hex())
    key.chmod(0o644)

    made = prelim(settings, "backup", str(tmp_path / "backups"), "--key-file", str(key))
    assert made.returncode == 0
    assert f"warning: every user can read {key}" in made.stdout
    key.chmod(0o600)
    assert "warning" not in prelim(settings, "backup", str(tmp_path / "backups"), "--key-file", str(key)).stdout


def test_manifest_has_the_release_that_made_the_backup(settings: Settings, repository: Repository) -> None:
    back_up(settings, repository)
    assert repository.manifest(repository.latest()).version == release()
