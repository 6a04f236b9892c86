"""Objects that are sent again with another header: the same object, in a file of another size than its stored one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from sqlalchemy import text

from db.models import Instance
from db.session import transaction
from db.storage import moves, object_files
from deploy.operate import audit
from deploy.operate.backup import create, restore
from deploy.operate.backup.repository import Repository
from dicom_listener.indexing import indexer
from dicom_listener.moving.mover import Mover
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.moving.test_mover import commitment_failures, local, moved, readable
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset

    from db.settings import Settings
    from tests.object_storage import FakeStorage

#: Longer than that of the first sender, and so is the header.
OTHER_SENDER = "ANOTHER_SENDER"


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    """An object that was moved."""
    sent = image()
    receive(settings, sent)
    moved(settings, 0)
    return sent


def send_again(settings: Settings, dataset: Dataset) -> Path:
    """Send it from another sender; return its local file."""
    receive(settings, dataset, calling_ae_title=OTHER_SENDER)
    while indexer.run_once(settings):
        pass
    (row,) = rows(settings, Instance)
    assert OTHER_SENDER in local(settings, row).read_bytes().decode("latin-1")
    return local(settings, row)


def test_size_of_the_row_is_that_of_the_file_that_is_read(
    settings: Settings, storage: FakeStorage, dataset: Dataset
) -> None:
    (before,) = rows(settings, Instance)
    copy = send_again(settings, dataset)
    assert audit.check(settings) == []
    assert commitment_failures(settings) == []
    moved(settings, 0)

    (row,) = rows(settings, Instance)
    assert not copy.exists()
    assert row.file_bytes == before.file_bytes == len(readable(settings, row))
    assert len(storage.keys()) == 1
    assert audit.check(settings) == []


@pytest.mark.parametrize("kind", ["copy", "list"])
def test_restored_backup_of_a_resent_object_has_no_violation(
    settings: Settings, dataset: Dataset, tmp_path: Path, kind: str
) -> None:
    settings = settings.replace(storage_backup=kind)
    send_again(settings, dataset)
    moved(settings, 0)
    repository = Repository(tmp_path / "backups", bytes(32))
    console = Console(file=io.StringIO())
    create.run(settings, console, repository, keep=2)

    verified = restore.verify(settings, console, repository, repository.latest(), tmp_path)
    assert verified.violations == 0


def test_resent_file_whose_move_the_database_has_lost_keeps_its_object(
    settings: Settings, storage: FakeStorage, dataset: Dataset
) -> None:
    lose_the_move(settings)
    send_again(settings, dataset)
    (row,) = moved(settings, 0)

    assert (len(storage.keys()), row.storage_due_at) == (1, None)
    assert row.file_bytes == len(readable(settings, row))
    assert are_set_aside(settings) == 0
    assert audit.check(settings) == []


@pytest.mark.usefixtures("dataset")
def test_object_with_another_header_than_the_lost_file_comes_back(settings: Settings) -> None:
    (before,) = rows(settings, Instance)
    with transaction(settings.database()) as session:
        # Of an earlier release: the size of a file that was sent again.
        session.execute(text("UPDATE instances SET file_bytes = file_bytes + 8"))
    lose_the_move(settings)
    (row,) = moved(settings, 0)

    assert row.object_sha256
    assert row.file_bytes == before.file_bytes
    assert are_set_aside(settings) == 0


def test_file_sent_again_while_its_copy_is_deleted_stays_due(
    settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_again(settings, dataset)
    real, sent = moves.deleted, []

    def late(*arguments: object) -> None:
        if not sent:
            sent.append(send_again(settings, dataset))
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(moves, "deleted", late)
    mover = Mover(settings)
    mover.run_once()
    (row,) = rows(settings, Instance)
    assert (row.file_bytes, row.storage_due_at is None) == (sent[0].stat().st_size, False)
    mover.run_once()

    (row,) = rows(settings, Instance)
    assert not sent[0].exists()
    assert row.file_bytes == len(readable(settings, row))


def test_size_of_an_equal_file_is_repaired(settings: Settings, dataset: Dataset) -> None:
    send_again(settings, dataset)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET file_bytes = file_bytes + 8"))
    (violation,) = audit.check(settings)
    assert violation.rule == audit.OTHER_SIZE

    assert audit.repair_violation(settings, violation)
    assert audit.check(settings) == []


def test_size_of_a_damaged_file_is_not_repaired(settings: Settings, dataset: Dataset) -> None:
    copy = send_again(settings, dataset)
    copy.write_bytes(copy.read_bytes()[:-2])
    (violation,) = audit.check(settings)

    assert not audit.repair_violation(settings, violation)
    assert [found.rule for found in audit.check(settings)] == [audit.OTHER_SIZE]


def test_copy_with_another_header_is_not_cached_as_the_object(settings: Settings, dataset: Dataset) -> None:
    send_again(settings, dataset)
    (row,) = rows(settings, Instance)
    assert OTHER_SENDER.encode() in readable(settings, row)
    moved(settings, 0)

    with object_files.opened(settings) as stored:
        assert OTHER_SENDER.encode() not in stored.path(row).read_bytes()


def lose_the_move(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET object_sha256 = NULL, storage_due_at = now()"))


def are_set_aside(settings: Settings) -> int:
    with transaction(settings.database()) as session:
        return moves.waiting(session).set_aside
