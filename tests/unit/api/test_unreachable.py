"""Responses while the database is unreachable, and after an unexpected error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import structlog
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api import error_handlers
from api.app import create_app
from db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

KEY = {"Authorization": "Bearer prelim_any"}


@pytest.fixture(params=["not configured", "not listening"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    # Port 9 (discard) is never served on a loopback.
    url = SecretStr("postgresql+psycopg://u@127.0.0.1:9/d") if request.param == "not listening" else None
    return create_app(Settings(data_dir=tmp_path, database_url=url))


def test_health_reports_an_unreachable_database(app: FastAPI) -> None:
    answer = TestClient(app).get("/v1/health")

    assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")


def test_api_answers_503_with_retry_after(app: FastAPI) -> None:
    answer = TestClient(app).get("/v1/studies", headers=KEY)

    assert answer.status_code == 503
    assert answer.json()["error"] == "unavailable"
    assert answer.headers["Retry-After"] == "5"


def test_page_shows_the_error(app: FastAPI) -> None:
    answer = TestClient(app).get("/", headers=KEY)

    assert answer.status_code == 503
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "database unreachable" in answer.text


def test_unexpected_error_is_500_and_its_text_is_neither_sent_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Settings(data_dir=tmp_path))

    @app.get("/v1/broken/{name}")
    def broken(name: str) -> None:
        del name
        structlog.get_logger().info("read.started")
        raise RuntimeError("Doe^Jane")

    answer = TestClient(app).get("/v1/broken/Doe^Jane")
    logged = caplog.text + "".join(capsys.readouterr())

    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "Doe" not in answer.text + logged.replace('RuntimeError("Doe^Jane")', "the source line")
    assert "request.failed" in logged
    assert "/v1/broken/{name}" in logged
    assert logged.count("request_id") == 2, "in a worker thread too"
    assert answer.headers["Cache-Control"] == "no-store"


def test_reference_page_lists_every_path_and_schema(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    page = TestClient(app).get("/docs").text
    document = app.openapi()

    assert not [path for path in document["paths"] if path not in page]
    assert not [name for name in ("Report", "StudyPage", "Problem") if f'id="{name}"' not in page]
    assert not [link for link in re.findall(r'href="#(\w+)"', page) if f'id="{link}"' not in page and link != "main"]
    assert all(path.startswith(error_handlers.API_PREFIX) for path in document["paths"])


def test_liveness_needs_no_database(app: FastAPI) -> None:
    answer = TestClient(app).get("/v1/live")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
