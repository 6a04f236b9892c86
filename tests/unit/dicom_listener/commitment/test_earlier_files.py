"""Requests wait for the files that were there when they were first examined, and for no others."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from dicom_listener.commitment import earlier_files
from dicom_listener.commitment.earlier_files import EarlierFiles
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.prepare()
    return spool


def put(spool: Spool) -> Path:
    path = spool.inbox / f"{uuid.uuid4().hex}.dcm"
    path.touch()
    return path


def test_request_waits_for_earlier_files_and_not_for_later_ones(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_files, "LISTING_SECONDS", 0)
    request, earlier = uuid.uuid4(), put(spool)
    files = EarlierFiles(spool)
    assert files.wait_for(request)
    put(spool)
    assert files.wait_for(request)
    earlier.unlink()
    assert not files.wait_for(request)


def test_request_examined_between_two_listings_waits_for_the_next_one(spool: Spool) -> None:
    first, second, earlier = uuid.uuid4(), uuid.uuid4(), put(spool)
    files = EarlierFiles(spool)
    assert files.wait_for(first)
    put(spool)
    earlier.unlink()
    assert files.wait_for(second), "the second file came after the listing"
    files._due = 0
    assert not files.wait_for(first)
    assert files.wait_for(second)


def test_request_does_not_wait_if_no_file_does(spool: Spool) -> None:
    files = EarlierFiles(spool)
    assert not files.wait_for(uuid.uuid4())
    put(spool)
    assert files.wait_for(uuid.uuid4()), "an empty listing is not used again"
