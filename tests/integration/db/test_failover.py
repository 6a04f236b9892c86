"""A database that fails over, restarts or hangs, and clients that hold locks while they do not respond."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from api.app import create_app
from api.v1 import health
from db import limits
from db import session as database
from db.jobs.wakeups import JobListener
from db.models.jobs import QUEUED_CHANNEL
from db.session import engine, limit_statements, transaction
from db.settings import Settings
from tests.polling import wait_until
from tests.proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCKED = (
    "SELECT count(*) FROM pg_locks WHERE relation = 'processes'::regclass AND mode = 'AccessExclusiveLock' AND granted"
)
MAKE_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"


@pytest.fixture(autouse=True)
def own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_process", database._Process())


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with proxied(make_url(database_url).port or 0) as made:
        yield made


@pytest.fixture
def proxy_url(database_url: str, proxy: Proxy) -> Iterator[str]:
    url = make_url(database_url).set(port=proxy.port).render_as_string(hide_password=False)
    yield url
    engine(url).dispose()


def run(url: str, statement: str) -> object:
    with transaction(url) as session:
        result = session.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def write(url: str) -> object:
    return run(url, "INSERT INTO processes (name, role, info) VALUES (gen_random_uuid()::text, 'worker', '{}')")


def test_session_that_became_read_only_is_replaced_before_it_is_used(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "UNCHECKED_SECONDS", 0)
    run(database_url, MAKE_READ_ONLY)

    write(database_url)


def test_write_in_a_session_that_became_read_only_drops_it(database_url: str) -> None:
    run(database_url, MAKE_READ_ONLY)

    with pytest.raises(OperationalError) as refused:
        write(database_url)
    assert refused.value.connection_invalidated
    write(database_url)


def test_read_only_server_is_used_if_the_url_permits_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "UNCHECKED_SECONDS", 0)
    url = f"{database_url}?target_session_attrs=any"
    run(url, MAKE_READ_ONLY)

    assert run(url, "SHOW transaction_read_only") == "on"
    engine(url).dispose()


def test_second_host_of_the_url_is_used_when_the_first_is_down(database_url: str) -> None:
    here = make_url(database_url)
    hosts = ("127.0.0.1:9", f"127.0.0.1:{here.port}")  # port 9, discard, is never served on a loopback
    url = here.set(host=None, port=None).update_query_dict({"host": hosts}).render_as_string(hide_password=False)
    listener = JobListener(url)
    assert not listener.wait(0.01, threading.Event())

    run(url, f"NOTIFY {QUEUED_CHANNEL}")
    assert listener.wait(5, threading.Event())

    listener.close()
    engine(url).dispose()


def test_outage_is_logged_when_it_begins_and_when_it_ends(proxy: Proxy, proxy_url: str) -> None:
    limit_statements(Settings(statement_seconds=0.1))
    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "GRACE_SECONDS", 0.1)
        run(proxy_url, "SELECT 1")
        proxy.forwarding.clear()
        with pytest.raises(OperationalError):
            run(proxy_url, "SELECT 1")
        threading.Timer(0.5, proxy.forwarding.set).start()
        run(proxy_url, "SELECT 1")

    assert [line["event"] for line in logs] == ["database.unreachable", "database.reachable"]
    assert logs[1]["failures"] == 1


def test_statement_of_a_database_that_hangs_is_ended(proxy: Proxy, proxy_url: str) -> None:
    limit_statements(Settings(statement_seconds=0.2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "GRACE_SECONDS", 0.2)
        run(proxy_url, "SELECT 1")
    proxy.forwarding.clear()

    begun = time.monotonic()
    with pytest.raises(OperationalError) as hung:
        run(proxy_url, "SELECT 1")
    assert hung.value.connection_invalidated
    assert 0.3 < time.monotonic() - begun < 2


def test_statement_that_takes_too_long_is_ended_by_the_server(database_url: str) -> None:
    limit_statements(Settings(statement_seconds=0.1))

    with pytest.raises(OperationalError) as ended:
        run(database_url, "SELECT pg_sleep(5)")
    assert not ended.value.connection_invalidated, "the connection is sound"


def test_lock_of_a_client_that_stopped_responding_is_released(database_url: str) -> None:
    limit_statements(Settings())
    write(database_url)
    with engine(database_url).connect() as frozen:
        # Shorter from here on: a session of a busy machine may be idle for longer between two statements.
        frozen.execute(text("LOCK TABLE processes; SET LOCAL idle_in_transaction_session_timeout = '300ms'"))
        begun = time.monotonic()
        write(database_url)
        assert time.monotonic() - begun < 3
        with pytest.raises(OperationalError):
            frozen.execute(text("SELECT 1"))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="between-two-statements-of-a-pipeline"),
        pytest.param(b"P\0\0\x10\0", id="within-a-message"),
    ],
)
def test_lock_of_a_client_that_froze_while_it_sent_is_released(
    database_url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.2)
    limit_statements(Settings(statement_seconds=0.5))
    frozen = database.connect(database_url)
    frozen.autocommit = False
    limit_statements(Settings())
    frozen.pgconn.enter_pipeline_mode()
    for statement in (b"BEGIN", b"LOCK TABLE processes"):
        frozen.pgconn.send_query_params(statement, None)
    frozen.pgconn.send_flush_request()
    frozen.pgconn.flush()
    os.write(frozen.fileno(), sent)
    wait_until(lambda: bool(run(database_url, LOCKED)), 5)

    begun = time.monotonic()
    write(database_url)
    assert time.monotonic() - begun < 3
    frozen.close()


def test_limits_are_set_at_both_ends(database_url: str) -> None:
    limit_statements(Settings())

    assert run(database_url, "SHOW lock_timeout") == "3s"
    assert run(database_url, "SHOW idle_in_transaction_session_timeout") == "5s"
    assert run(database_url, "SHOW transaction_timeout") == "10s"
    assert run(database_url, "SHOW tcp_keepalives_idle") == "5"
    assert run(database_url, "SHOW tcp_user_timeout") == "10000"


def test_health_answers_within_a_second_while_the_database_hangs(proxy: Proxy, proxy_url: str, tmp_path: Path) -> None:
    client = TestClient(create_app(Settings(data_dir=tmp_path, database_url=SecretStr(proxy_url))))
    assert client.get("/v1/health").json()["database"] == "ok"
    proxy.forwarding.clear()
    time.sleep(health.VALID_SECONDS)
    for _ in range(2):
        begun = time.monotonic()
        answer = client.get("/v1/health")
        assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")
        assert time.monotonic() - begun < 1
