"""What callers see when the database is not there, or when the fault is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api import errors
from api.app import create_app
from db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

KEY = {"Authorization": "Bearer prelim_any"}


@pytest.fixture(params=["none configured", "no one listens"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    # Port 9 (discard) is never served on a loopback.
    url = SecretStr("postgresql+psycopg://u@127.0.0.1:9/d") if request.param == "no one listens" else None
    return create_app(Settings(data_dir=tmp_path, database_url=url))


def test_health_says_that_the_database_is_unreachable(app: FastAPI) -> None:
    answer = TestClient(app).get("/v1/health")

    assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")


def test_the_api_says_503_and_to_try_again(app: FastAPI) -> None:
    answer = TestClient(app).get("/v1/studies", headers=KEY)

    assert answer.status_code == 503
    assert answer.json()["error"] == "unavailable"
    assert answer.headers["Retry-After"] == "5"


def test_a_page_says_it_to_people(app: FastAPI) -> None:
    answer = TestClient(app).get("/", headers=KEY)

    assert answer.status_code == 503
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "the database does not answer" in answer.text


def test_an_unforeseen_fault_is_500_and_its_text_is_neither_sent_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Settings(data_dir=tmp_path))

    @app.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("Doe^Jane")

    answer = TestClient(app).get("/v1/broken")
    logged = caplog.text + "".join(capsys.readouterr())

    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "Doe" not in answer.text + logged.replace('RuntimeError("Doe^Jane")', "the source line")
    assert "request.failed" in logged
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_api_and_its_reference_tell_the_same(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    page = TestClient(app).get("/docs").text
    document = app.openapi()

    assert not [path for path in document["paths"] if path not in page]
    assert not [name for name in ("Report", "StudyPage", "Problem") if f'id="{name}"' not in page]
    assert all(path.startswith(errors.API_PREFIX) for path in document["paths"])
