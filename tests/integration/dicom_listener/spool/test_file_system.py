"""Requirements on the file system of the spool, with directories elsewhere and failing system calls."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from dicom_listener import dispatch
from dicom_listener.receive.listener import Listener
from dicom_listener.spool import file_system
from dicom_listener.spool.durable import Spool
from tests.conftest import missing
from tests.integration.dicom_listener.listening import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    if not SHARED_MEMORY.exists() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        missing("a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        yield Path(directory)


@pytest.mark.parametrize("name", ["store", "quarantine"])
def test_directory_on_another_file_system_stops_listener_and_dispatcher(
    tmp_path: Path, elsewhere: Path, name: str
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / name).symlink_to(elsewhere)
    settings = settings_for(tmp_path)

    with pytest.raises(ConfigurationError, match="put all of them on one file system"):
        Listener(settings).start()
    with pytest.raises(ConfigurationError, match="put all of them on one file system"):
        dispatch.run(settings)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_system_without_links_is_refused(spool: Spool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(ConfigurationError, match="no hard links"):
        file_system.require(spool)
    assert list(spool.inbox.iterdir()) == []


def test_file_system_with_few_inodes_is_refused(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system, "MIN_INODES", 2**62)
    if os.statvfs(spool.root).f_files == 0:
        missing("a file system with a limit of inodes")
    with pytest.raises(ConfigurationError, match=r"only \d+ inodes in all"):
        file_system.require(spool)


def test_full_disk_does_not_stop_the_start(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    file_system.require(spool)
    assert list(spool.inbox.iterdir()) == []
