"""`prelim audit` on stored files: what it finds and what it can repair."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from db.session import transaction
from deploy.operate import audit
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with one object in its store and one in quarantine."""
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID, PatientID="P-2"))
    indexer.run_once(settings)
    return settings


def violated(settings: Settings) -> list[str]:
    return [violation.rule for violation in audit.check(settings)]


def stored(settings: Settings) -> Path:
    [path] = Spool(settings.spool).store.rglob("*.dcm")
    return path


def test_intact_spool_has_no_violations(settings: Settings) -> None:
    receive(settings, image())

    assert violated(settings) == []


def test_missing_file_is_found(settings: Settings) -> None:
    stored(settings).unlink()

    assert violated(settings) == [audit.NO_FILE]


def test_truncated_file_is_found(settings: Settings) -> None:
    os.truncate(stored(settings), 100)

    assert violated(settings) == [audit.OTHER_SIZE]


def test_flipped_bit_is_found(settings: Settings) -> None:
    content = bytearray(stored(settings).read_bytes())
    content[-1] ^= 1
    stored(settings).write_bytes(content)

    assert violated(settings) == [audit.OTHER_DIGEST]


@pytest.mark.parametrize("table", ["instances", "quarantine"])
def test_file_without_a_row_is_repaired_by_indexing_it_again(settings: Settings, table: str) -> None:
    with transaction(settings.database()) as session:
        session.execute(text(f"DELETE FROM {table}"))
    assert violated(settings) == [audit.NO_ROW]

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    indexer.run_once(settings)

    assert violated(settings) == []


def test_abandoned_part_file_is_removed(settings: Settings) -> None:
    part = Spool(settings.spool).inbox / "left.part"
    part.write_bytes(b"half")
    assert violated(settings) == []
    os.utime(part, (0, 0))

    assert violated(settings) == [audit.STALE]
    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert not part.exists()


def test_abandoned_object_is_flushed_before_it_is_linked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    part = receive(settings, image()).rename(Spool(settings.spool).inbox / "killed.part")
    os.utime(part, (0, 0))
    linked_at_flush: list[bool] = []
    flush = os.fdatasync
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: linked_at_flush.append(part.with_suffix(".dcm").exists()) or flush(fd)
    )

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert linked_at_flush == [False]
    assert part.with_suffix(".dcm").exists()


def test_missing_file_cannot_be_repaired_and_stays_listed(settings: Settings) -> None:
    stored(settings).unlink()

    assert audit.show(settings, Console(quiet=True), repair=True) == 1
