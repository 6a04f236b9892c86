"""Checks before `prelim up` starts anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from db.operations import disk
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from deploy.embedded.server_process import free_port
from deploy.operate.doctor.preflight import check

if TYPE_CHECKING:
    from pathlib import Path


def settings_for(tmp_path: Path, **services: str) -> Settings:
    ports = {name: free_port() for name in ("dicom_port", "api_port", "flower_port")}
    return Settings(data_dir=tmp_path / "later", checkpoint=CHECKPOINT, **ports, **services)


def test_reachable_services_pass(tmp_path: Path, database_url: str, broker_url: str) -> None:
    check(settings_for(tmp_path, database_url=database_url, broker_url=broker_url))


def test_unreachable_broker_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PRELIM_BROKER_URL.*cannot be reached") as raised:
        check(settings_for(tmp_path, broker_url="redis://:secret@127.0.0.1:1/0"))

    assert "secret" not in str(raised.value)


def test_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PRELIM_DATABASE_URL.*cannot be reached") as raised:
        check(settings_for(tmp_path, database_url="postgresql+psycopg://u:secret@127.0.0.1:1/d"))

    assert "secret" not in str(raised.value)


def test_too_small_a_disk_is_rejected_with_its_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "measure", lambda _: disk.Disk(100 << 20, None))

    with pytest.raises(ConfigurationError, match=re.escape("100 MiB are free") + ".*PRELIM_DATA_DIR"):
        check(settings_for(tmp_path))
