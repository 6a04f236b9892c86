"""What `prelim audit` sees on the disk, and what it can mend."""

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
    """A house with an image in its store and one in quarantine."""
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID, PatientID="P-2"))
    indexer.run_once(settings)
    return settings


def laws(settings: Settings) -> list[str]:
    return [violation.law for violation in audit.check(settings)]


def stored(settings: Settings) -> Path:
    [path] = Spool(settings.spool).store.rglob("*.dcm")
    return path


def test_an_intact_house_breaks_no_law(settings: Settings) -> None:
    receive(settings, image())

    assert laws(settings) == []


def test_a_lost_file_is_found(settings: Settings) -> None:
    stored(settings).unlink()

    assert laws(settings) == [audit.NO_FILE]


def test_a_cut_file_is_found(settings: Settings) -> None:
    os.truncate(stored(settings), 100)

    assert laws(settings) == [audit.OTHER_SIZE]


def test_a_flipped_bit_is_found(settings: Settings) -> None:
    content = bytearray(stored(settings).read_bytes())
    content[-1] ^= 1
    stored(settings).write_bytes(content)

    assert laws(settings) == [audit.OTHER_DIGEST]


@pytest.mark.parametrize("table", ["instances", "quarantine"])
def test_a_file_without_a_row_is_found_and_mended_by_indexing_it_again(settings: Settings, table: str) -> None:
    with transaction(settings.database()) as session:
        session.execute(text(f"DELETE FROM {table}"))
    assert laws(settings) == [audit.NO_ROW]

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    indexer.run_once(settings)

    assert laws(settings) == []


def test_a_file_left_half_received_is_found_and_removed(settings: Settings) -> None:
    part = Spool(settings.spool).inbox / "left.part"
    part.write_bytes(b"half")
    assert laws(settings) == []
    os.utime(part, (0, 0))

    assert laws(settings) == [audit.STALE]
    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert not part.exists()


def test_a_loss_cannot_be_mended_and_stays_listed(settings: Settings) -> None:
    stored(settings).unlink()

    assert audit.show(settings, Console(quiet=True), repair=True) == 1
