"""Fixtures of the tests of the object storage: a fake one, and an installation that moves to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from tests.object_storage import FakeStorage


@pytest.fixture
def storage(object_storage: FakeStorage) -> FakeStorage:
    return object_storage


@pytest.fixture
def settings(tmp_path: Path, database_url: str, storage: FakeStorage) -> Settings:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **storage.settings)
    Spool(settings.spool).prepare()
    return settings
