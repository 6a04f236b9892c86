"""`prelim canary`: a phantom through the real port with TLS, from its association to its report."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text

from db.jobs import claims
from db.models import Canary, FileDeletion, Instance, Job, Report, Study
from db.session import transaction
from deploy.embedded.server_process import free_port
from deploy.operate import audit
from deploy.operate.canary import canary
from dicom_listener.indexing import indexer
from dicom_listener.receive.listener import Listener
from tests.certificates import write_certificate
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.dicom_listener.listening import settings_for
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An installation whose listener runs with TLS."""
    monkeypatch.setattr(canary, "POLL_SECONDS", 0.05)
    certificate, key = tmp_path / "listener.pem", tmp_path / "key.pem"
    write_certificate(certificate, key, days=30)
    tls = {"tls_certificate": certificate, "tls_key": key}
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **tls)
    with Listener(settings) as listener:
        yield settings.replace(dicom_port=listener.port)


class Others(threading.Thread):
    """The dispatcher and, unless it is away, the worker."""

    def __init__(self, settings: Settings, *, worker: bool = True) -> None:
        super().__init__()
        self._settings, self._worker = settings, worker
        self._stop_requested = threading.Event()

    def run(self) -> None:
        arrivals = Arrivals(self._settings.database())
        while not self._stop_requested.wait(0.05):
            indexer.run_once(self._settings)
            arrivals.settle()
            claim = arrivals.claim() if self._worker else None
            if claim is not None:
                with transaction(arrivals.url) as session:
                    claims.finish(session, claim, DRAFT)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._stop_requested.set()
        self.join()


def rows(settings: Settings) -> list[int]:
    with transaction(settings.database()) as session:
        tables = Study, Instance, Job, Report, FileDeletion
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def problems(settings: Settings) -> list[str | None]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(Canary.problem).order_by(Canary.begun_at)))


def test_canary_gets_its_report_and_leaves_nothing(settings: Settings) -> None:
    with Others(settings):
        assert canary.send_one(settings, 20) == ""
    # What another process works on is left to the next canary.
    canary.delete_ended(settings)

    assert problems(settings) == [""]
    assert rows(settings) == [0] * 5
    assert not list((settings.spool / "store").rglob("*.dcm"))
    assert audit.check(settings) == []


def test_canary_that_nobody_reports_is_a_miss_and_is_deleted_when_it_has_ended(settings: Settings) -> None:
    with Others(settings, worker=False):
        assert canary.send_one(settings, 1) == canary.UNREPORTED
        wait_until(lambda: rows(settings)[0] == 1)

    with Others(settings):
        assert canary.send_one(settings, 20) == ""
    canary.delete_ended(settings)

    assert rows(settings) == [0] * 5
    assert problems(settings) == [canary.UNREPORTED, ""]


def test_canary_that_is_not_stored_names_the_cause(settings: Settings) -> None:
    assert canary.send_one(settings.replace(dicom_port=free_port()), 1) == "not stored: cannot be reached"

    assert problems(settings) == ["not stored: cannot be reached"]


class Start(threading.Event):
    """Stop signal that never comes; a listener starts at the second look at it."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port, self.looks, self.server = port, 0, None

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.looks += 1
        if self.looks == 2:
            self.server = socket.create_server(("127.0.0.1", self._port))
        return self.is_set()


def test_first_canary_waits_for_a_listener_that_starts_with_it(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it is refused, and the alarm of the time before a start lasts until the next one."""
    given = settings_for(tmp_path, database_url=SecretStr(database_url)).replace(dicom_port=free_port())
    start = Start(given.dicom.dicom_port)
    sent: list[int] = []

    def send(*_: object) -> None:
        sent.append(start.looks)
        start.set()

    monkeypatch.setattr(canary, "send_one", send)
    canary._repeat(given, start)
    assert start.server is not None
    start.server.close()

    # The third look is for the time at which the canary is due.
    assert sent == [3]


def test_next_canary_is_due_after_the_interval_whoever_sent_the_last(settings: Settings) -> None:
    assert canary._seconds_until_due(settings, 600) == 0
    with transaction(settings.database()) as session:
        session.add(Canary(study_instance_uid="2.25.1"))
        session.flush()
        session.execute(text("UPDATE canaries SET begun_at = now() - interval '100 s'"))

    assert canary._seconds_until_due(settings, 600) == pytest.approx(500, abs=5)
