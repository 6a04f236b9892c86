"""Requests without a caller add a few rows to the audit log and lines to the log, however many they are."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from api.access import anonymous_rows
from api.access.anonymous_rows import MAX_ADDRESSES, ROWS, AnonymousRows
from db import log_budget
from db.access import audit_log
from db.models import AuditRow
from db.session import reading
from tests.long_form import size
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI
    from fastapi.testclient import TestClient

#: A work list and a report.
PATHS = ("/v1/studies", "/v1/studies/00000000-0000-0000-0000-000000000001/report")
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def rows(url: str) -> list[AuditRow]:
    with reading(url) as session:
        return list(session.scalars(select(AuditRow).order_by(AuditRow.chain, AuditRow.sequence)))


def problems(url: str) -> list[str]:
    with reading(url) as session:
        return audit_log.verify(session).problems


async def request(app: FastAPI, path: str, address: str, key: str = "") -> int:
    """Send a GET from *address*; return the status."""
    statuses: list[int] = []
    headers = [(b"host", b"testserver"), *([(b"authorization", f"Bearer {key}".encode())] if key else [])]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers}
    scope |= {"client": (address, 50_000), "server": ("testserver", 80)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


def send_all(app: FastAPI, addresses: Iterable[str], key: str = "") -> set[int]:
    """Send a request from each of *addresses*, end the server, and return the statuses."""

    async def run() -> set[int]:
        paths = itertools.cycle(PATHS)
        found = {await request(app, next(paths), address, key) for address in addresses}
        await app.state.recorder.close()
        return found

    return asyncio.run(run())


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time by which minutes begin and end, to be changed; no other module has it."""
    now = [0.0]
    monkeypatch.setattr(anonymous_rows, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_requests_without_a_key_have_a_few_rows_and_their_number(app: FastAPI, database_url: str, count: int) -> None:
    assert 200 not in send_all(app, ["203.0.113.7"] * count)
    found = rows(database_url)

    counted = [row.detail["requests"] for row in found if "requests" in row.detail]
    assert sum(counted) + len(found) - len(counted) == count, "none is left out"
    # Each minute of the run has ROWS and one more.
    assert len(found) <= len(counted) * (ROWS + 1)
    assert {row.address for row in found} == {"203.0.113.7"}
    assert all(row.status == 401 for row in found)
    assert all(row.detail["since"] <= row.at.isoformat() for row in found if "since" in row.detail)
    assert problems(database_url) == []


def test_unknown_keys_are_counted_too_and_reads_of_a_caller_never(
    app: FastAPI, client: TestClient, key: str, database_url: str
) -> None:
    send_all(app, ["203.0.113.7"] * 40, f"{key}x")
    refused = len(rows(database_url))
    assert send_all(app, ["203.0.113.7"] * 40, key) <= {200, 404}

    assert refused == ROWS + 1
    assert len(rows(database_url)) == refused + 40
    assert client.get("/v1/studies").status_code == 200


def test_number_of_addresses_has_a_limit(app: FastAPI, database_url: str) -> None:
    addresses = [f"2001:db8::{number:x}" for number in range(size(3 * MAX_ADDRESSES, 20 * MAX_ADDRESSES))]
    send_all(app, addresses)
    found = rows(database_url)

    assert len(found) <= MAX_ADDRESSES + ROWS + 1
    assert found[-1].address == ""
    assert found[-1].detail["requests"] == len(addresses) - len(found) + 1
    assert problems(database_url) == []


def test_row_of_the_counted_requests_is_stored_when_their_minute_has_ended(
    app: FastAPI, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(monkeypatch)
    # Of the timer, which runs in real time.
    monkeypatch.setattr("api.access.recorder.WINDOW_SECONDS", 0.1)

    async def run() -> None:
        for _ in range(ROWS + 5):
            await request(app, PATHS[0], "203.0.113.7")
        now[0] = anonymous_rows.WINDOW_SECONDS
        await asyncio.to_thread(wait_until, lambda: any("requests" in row.detail for row in rows(database_url)))

    asyncio.run(run())
    assert sum(row.detail.get("requests", 1) for row in rows(database_url)) == ROWS + 5


def test_count_that_cannot_be_stored_is_logged(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        for _ in range(ROWS + 5):
            await request(app, PATHS[0], "203.0.113.7")
        monkeypatch.setattr(app.state.recorder, "_append", lambda _: 1 / 0)
        await app.state.recorder.close()

    asyncio.run(run())
    [line] = [line for line in capsys.readouterr().out.splitlines() if "audit_log.counts_lost" in line]
    assert "requests=5" in line
    assert "203.0.113.7" in line


def test_a_new_minute_begins_with_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    entry = audit_log.Entry(AT, "query", 401, "", "203.0.113.7", "GET /v1/studies")
    minutes = AnonymousRows()
    assert [minutes.counts(entry) for _ in range(ROWS + 1)] == [False] * ROWS + [True]
    assert minutes.ended() == []
    now[0] = anonymous_rows.WINDOW_SECONDS
    assert [row.detail["requests"] for row in minutes.ended()] == [1]
    assert not minutes.is_counting
    assert minutes.counts(entry) is False


def test_log_lines_for_invalid_keys_and_tokens_are_limited(
    anonymous: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_budget, "MAX_LINES_PER_MINUTE", 2)
    budget = app.state.rate_limits.log_budget
    with capture_logs() as lines:
        for _ in range(5):
            anonymous.get("/v1/studies", headers={"Authorization": "Bearer prelim_wrong"})
        budget._minute_ends = 0.0
        anonymous.get("/v1/studies", headers={"Authorization": "Bearer prelim_wrong"})
    lines = [line for line in lines if line["event"].startswith("login")]
    events = [line["event"] for line in lines]

    assert events == ["login.rejected", "login.rejected", "logins.not_logged", "login.rejected"]
    assert lines[2]["count"] == 3
