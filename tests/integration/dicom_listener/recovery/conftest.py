"""Fixtures of the tests of recovery; a module that needs other settings overrides `settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    Spool(settings.spool).prepare()
    return settings
