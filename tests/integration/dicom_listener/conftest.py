"""Fixtures of the listener's tests; a module that needs other settings overrides `settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_listener.receive.listener import Listener
from tests.integration.dicom_listener.listening import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a listener without a database."""
    return settings_for(tmp_path)


@pytest.fixture
def listener(settings: Settings) -> Iterator[Listener]:
    """A running listener with these settings."""
    with Listener(settings) as listener:
        yield listener
