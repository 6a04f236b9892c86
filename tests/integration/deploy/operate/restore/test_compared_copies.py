"""`prelim backup` compares every copy with the row of its file once, also those that an earlier release made."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from deploy.operate.backup import restore, stored_rows
from tests.integration.deploy.operate.restore.place import (
    arrived,
    back_up,
    sealed,
    stored_files,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository


#: Part of the line that a backup prints before it compares every file.
COMPARES = "compares every file"


def restored(place: Settings, repository: Repository) -> int:
    restore.restore(place, repository, repository.latest())
    return restore.finish(place, Console(quiet=True), repository)


def damage(file: Path) -> bytes:
    """Change a file and not its size; return what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def write_as_before(settings: Settings, repository: Repository, folder: Path, file: Path) -> bytes:
    """Damage a file and back it up as a release did that compared nothing; return what the file was."""
    name = file.relative_to(settings.operations.data_dir).as_posix()
    back_up(settings, repository)
    (folder / "files" / f"{name}.sealed").unlink()
    whole = damage(file)
    repository.keep(file, name)
    backup = repository.latest()
    manifest = asdict(repository.manifest(backup))
    del manifest["compared"]
    repository.write(backup, "manifest", io.BytesIO(json.dumps(manifest).encode()))
    return whole


def test_damaged_copy_of_an_earlier_release_is_found_once_and_a_good_one_made_beside_it(
    settings: Settings, repository: Repository, tmp_path: Path, empty: Settings
) -> None:
    file = stored_files(settings)[0]
    whole = write_as_before(settings, repository, tmp_path / "backups", file)
    file.write_bytes(whole)
    before = sealed(tmp_path / "backups")

    made, printed = back_up(settings, repository)

    assert COMPARES in printed
    assert not made.absent
    after = sealed(tmp_path / "backups")
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1
    # The next one takes the good copy, and reads no file.
    assert COMPARES not in back_up(settings, repository)[1]
    assert len(sealed(tmp_path / "backups")) == len(after)
    assert restored(empty, repository) == 0
    assert stored_files(empty)[0].read_bytes() == whole


def test_file_that_was_damaged_before_its_copy_by_an_earlier_release_is_named_until_it_is_mended(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    file = stored_files(settings)[0]
    whole = write_as_before(settings, repository, tmp_path / "backups", file)

    for _ in range(2):
        made, printed = back_up(settings, repository)
        assert COMPARES in printed
        assert f"not in the backup: {file.relative_to(settings.operations.data_dir)}: another digest" in printed
        assert made.absent.files == 1
    file.write_bytes(whole)

    made, printed = back_up(settings, repository)
    assert not made.absent
    assert COMPARES in printed
    assert COMPARES not in back_up(settings, repository)[1]


def test_missing_file_keeps_its_copy_of_an_earlier_release_which_is_compared_once_it_is_back(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    file = stored_files(settings)[0]
    whole = write_as_before(settings, repository, tmp_path / "backups", file)
    file.unlink()

    _, printed = back_up(settings, repository)
    assert "only as an earlier copy in the backup" in printed
    file.write_bytes(whole)

    copies = len(sealed(tmp_path / "backups"))
    assert COMPARES in back_up(settings, repository)[1]
    assert len(sealed(tmp_path / "backups")) == copies + 1


def test_first_backup_of_a_folder_prints_nothing_about_earlier_copies(
    settings: Settings, repository: Repository
) -> None:
    arrived(settings)
    stored_files(settings)[0].unlink()

    for _ in range(2):
        assert COMPARES not in back_up(settings, repository)[1]


def test_file_that_was_copied_before_it_had_a_row_is_compared_with_it(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(stored_rows, "every", lambda _settings: iter(()))
        before.setattr(stored_rows, "named", lambda _session, _paths: set())
        assert back_up(settings, repository)[0].count == 2
    file = stored_files(settings)[0]
    damage(file)

    made, printed = back_up(settings, repository)

    assert f"not in the backup: {file.relative_to(settings.operations.data_dir)}: another digest" in printed
    assert made.absent.files == 1
