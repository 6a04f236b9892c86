"""The application on a database of the test's own, with and without a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from api.v1 import health
from db.access import keys
from db.session import transaction
from db.settings import Settings
from tests.integration.api.arrivals import Arrivals

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    return Arrivals(database_url)


@pytest.fixture
def key(database_url: str) -> str:
    with transaction(database_url) as session:
        return keys.create(session, "reading room")


@pytest.fixture
def app(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    # A test reads the health again right after a change.
    monkeypatch.setattr(health, "VALID_SECONDS", 0)
    return create_app(Settings(data_dir=tmp_path, database_url=SecretStr(database_url)))


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def client(app: FastAPI, key: str) -> TestClient:
    return TestClient(app, follow_redirects=False, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def visitor(app: FastAPI, key: str) -> TestClient:
    """A browser whose user has logged in."""
    client = TestClient(app, follow_redirects=False)
    assert client.post("/login", data={"key": key}).status_code == 303
    return client
