"""Every row of the audit log arrives at the repository at least once and in order, whatever the repository does."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from db.access import audit_queue
from db.access.audit_log import Chain, Entry
from db.access.audit_queue import Turn
from db.errors import ConfigurationError
from db.models import AuditRow, AuditSyslogSent
from db.operations import alarms
from db.session import transaction
from db.settings import Settings
from deploy.operate.audit_log import repository_check, sender, syslog_tls
from deploy.operate.audit_log.sender import Sender
from deploy.operate.doctor.doctor import finding_of
from deploy.operate.doctor.finding import Installation, Level
from tests.certificates import write_certificate
from tests.integration.db.conftest import Arrivals
from tests.integration.deploy.operate.audit_log.repository import AuditRepository, message
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[AuditRepository]:
    with AuditRepository(tmp_path) as server:
        yield server


def settings_of(server: AuditRepository, url: str, **changes: object) -> Settings:
    values = {
        "data_dir": server.folder,
        "database_url": SecretStr(url),
        "audit_syslog_url": f"syslog+tls://127.0.0.1:{server.port}",
        "audit_syslog_ca": server.certificate,
    }
    return Settings(**(values | changes))


def append(url: str, chain: Chain, *seconds: float, studies: tuple[uuid.UUID, ...] = ()) -> None:
    for each in seconds:
        at = NOW + dt.timedelta(seconds=each)
        chain.append(url, [Entry(at, "read", 200, "key a", "::1", "GET /v1/studies/{study_id}", list(studies))])


def stored(url: str) -> list[tuple[int, int, str]]:
    with transaction(url) as session:
        rows = session.execute(select(AuditRow.chain, AuditRow.sequence, AuditRow.hash)).all()
    return sorted((row.chain, row.sequence, row.hash) for row in rows)


def problem(url: str) -> str:
    with transaction(url) as session:
        found = audit_queue.waiting(session)
    assert found is not None
    return found.problem


def send_all(settings: Settings, attempts: int = 30) -> Sender:
    """Send until a pass finds nothing more."""
    made = Sender(settings)
    for _ in range(attempts):
        if made.run_once() == sender.POLL_SECONDS and figures(settings.database()) == 0:
            break
    made.close()
    return made


def figures(url: str) -> int:
    with transaction(url) as session:
        found = audit_queue.waiting(session)
    return -1 if found is None else found.rows


def test_rows_of_several_processes_arrive_in_the_order_of_time(repository: AuditRepository, database_url: str) -> None:
    first, second = Chain("host:1"), Chain("host:2")
    append(database_url, first, 0, 2)
    append(database_url, second, 1, 3, 5)
    # Stored after a later one of the same process: the order of the chain is kept.
    append(database_url, first, 6, 4)
    send_all(settings_of(repository, database_url))

    assert repository.rows() == [(1, 1), (2, 1), (1, 2), (2, 2), (2, 3), (1, 3), (1, 4)]
    assert sorted(repository.named()) == stored(database_url)
    append(database_url, second, 7)
    send_all(settings_of(repository, database_url))
    assert repository.rows()[7:] == [(2, 4)]
    assert len(repository.received) == 8, "nothing was sent twice"


def test_more_chains_than_are_read_at_a_time_keep_the_order_of_time(
    repository: AuditRepository, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_queue, "CHAINS", 2)
    monkeypatch.setattr(sender, "MAX_ROWS", 4)
    for number in range(5):
        append(database_url, Chain(f"host:{number}"), number, number + 5, number + 10)
    send_all(settings_of(repository, database_url))

    assert repository.rows() == [(number + 1, row + 1) for row in range(3) for number in range(5)]


def run_in_turn(made: Sender) -> float:
    """Run once, as soon as the server has ended the session of the sender before."""
    pauses: list[float] = []
    wait_until(lambda: pauses.append(made.run_once()) or pauses[-1] != sender.OTHER_SENDS_SECONDS)
    return pauses[-1]


def test_batch_that_the_repository_may_not_have_read_is_sent_again(
    repository: AuditRepository, database_url: str
) -> None:
    settings, chain = settings_of(repository, database_url), Chain("host:1")
    for number, fault in enumerate(("close", "goodbye", "cut", "last_cut", "mute", "unread"), start=1):
        repository.faults[:] = [fault, fault]
        append(database_url, chain, *range(20))
        made = Sender(settings)
        pauses = [run_in_turn(made), made.run_once()]
        failed, waits = problem(database_url), figures(database_url)
        wait_until(lambda made=made: made.run_once() == sender.POLL_SECONDS)  # type: ignore[misc]
        made.close()

        assert 0 < pauses[0] <= 1 < pauses[1] * 2 <= 4, "longer with each failure"
        assert failed, fault
        assert waits == 20, f"{fault}: nothing counts as sent"
        assert repository.rows() == [(1, row) for row in range(1, 20 * number + 1)]
        assert problem(database_url) == ""


def test_end_without_an_alert_confirms_a_batch_if_the_site_says_so(
    repository: AuditRepository, database_url: str
) -> None:
    settings, chain = settings_of(repository, database_url, audit_syslog_confirmation="tcp"), Chain("host:1")
    for number, fault in enumerate(("close", "goodbye", "cut", "last_cut", "unread"), start=1):
        repository.faults[:] = [fault, "mute"]
        append(database_url, chain, *range(20))
        made = Sender(settings)
        run_in_turn(made)
        assert figures(database_url) == 20, f"{fault}: a reset, or an early end, is none"
        made.run_once()
        made.close()

        assert figures(database_url) == 0
        assert repository.rows() == [(1, row) for row in range(1, 20 * number + 1)]


def test_repository_that_takes_a_few_bytes_at_a_time_gets_all(repository: AuditRepository, database_url: str) -> None:
    repository.faults[:] = ["slow"] * 3
    append(database_url, Chain("host:1"), *range(60))
    send_all(settings_of(repository, database_url))

    assert repository.rows() == [(1, row) for row in range(1, 61)]


def test_repository_that_is_away_loses_nothing_and_raises_an_alarm(tmp_path: Path, database_url: str) -> None:
    with AuditRepository(tmp_path) as repository:
        settings = settings_of(repository, database_url)
    append(database_url, Chain("host:1"), 0, 1)
    made = Sender(settings)
    made.run_once()
    with transaction(database_url) as session:
        session.execute(text("UPDATE audit_syslog SET begun_at = now() - interval '1 hour'"))
    with transaction(database_url) as session:
        raised = {alarm.code: alarm.detail for alarm in alarms.raised(session, Settings())}
    with repository:
        made.run_once()
    made.close()

    assert "2 rows of the audit log wait" in raised["audit_syslog"]
    assert "the repository cannot be reached: Connection refused" in raised["audit_syslog"]
    assert repository.rows() == [(1, 1), (1, 2)]
    with transaction(database_url) as session:
        assert "audit_syslog" not in {alarm.code for alarm in alarms.raised(session, settings)}


def test_reset_ends_the_wait_for_a_batch_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        client.setblocking(False)
        with suppress(BlockingIOError):
            while client.send(bytes(1 << 16)):
                pass
        assert syslog_tls._unacknowledged(client)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with pytest.raises(ConnectionResetError):
            syslog_tls._wait(lambda: not syslog_tls._unacknowledged(client), time.monotonic() + 5)


def test_sender_that_cannot_start_raises_the_alarm(repository: AuditRepository, database_url: str) -> None:
    append(database_url, Chain("host:1"), 0)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        sender.run(settings_of(repository, database_url, audit_syslog_ca=repository.folder / "none.pem"))
    with transaction(database_url) as session:
        session.execute(text("UPDATE audit_syslog SET begun_at = now() - interval '1 hour'"))
        raised = {alarm.code: alarm.detail for alarm in alarms.raised(session, Settings())}

    assert "the sender may not run" in raised["audit_syslog"]


def test_doctor_says_nothing_about_the_log_if_the_database_is_away(repository: AuditRepository) -> None:
    away = settings_of(repository, "postgresql+psycopg://prelim@127.0.0.1:1/prelim")

    found = finding_of(repository_check.CHECKS[0], Installation(away))

    assert (found.level, found.found) == (Level.NOT_CHECKED, "the database cannot be reached")


def test_rows_whose_place_was_not_stored_are_sent_again(
    repository: AuditRepository, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise psycopg.OperationalError("the session has ended")

    append(database_url, Chain("host:1"), 0, 1)
    settings = settings_of(repository, database_url)
    with monkeypatch.context() as patched:
        patched.setattr(Turn, "advance", ended)
        send_all(settings, attempts=1)
    send_all(settings)

    assert [row[:2] for row in repository.named()] == [(1, 1), (1, 2)] * 2


def test_one_process_sends_and_another_takes_over(repository: AuditRepository, database_url: str) -> None:
    append(database_url, Chain("host:1"), 0, 1)
    settings = settings_of(repository, database_url)
    first, second = Sender(settings), Sender(settings)
    first.run_once()
    append(database_url, Chain("host:2"), 2)
    assert second.run_once() == sender.OTHER_SENDS_SECONDS
    first.close()
    wait_until(lambda: second.run_once() == sender.POLL_SECONDS)
    second.close()

    assert [row[:2] for row in repository.named()] == [(1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize("case", ["another_authority", "another_host"])
def test_repository_without_a_valid_certificate_gets_nothing(
    case: str, repository: AuditRepository, database_url: str, tmp_path: Path
) -> None:
    append(database_url, Chain("host:1"), 0)
    write_certificate(tmp_path / "other.pem", tmp_path / "other.key", days=1, address="127.0.0.1")
    changes: dict[str, dict[str, object]] = {
        "another_authority": {"audit_syslog_ca": tmp_path / "other.pem"},
        "another_host": {"audit_syslog_url": f"syslog+tls://localhost:{repository.port}"},
    }
    send_all(settings_of(repository, database_url, **changes[case]), attempts=1)

    assert "the certificate of the repository is refused" in problem(database_url)
    assert repository.received == []


def test_repository_can_require_a_certificate(tmp_path: Path, database_url: str) -> None:
    own, key = tmp_path / "own.pem", tmp_path / "own.key"
    write_certificate(own, key, days=1)
    append(database_url, Chain("host:1"), 0)
    with AuditRepository(tmp_path, client_authority=own) as server:
        send_all(settings_of(server, database_url), attempts=1)
        assert (figures(database_url), server.received) == (1, [])
        send_all(settings_of(server, database_url, audit_syslog_certificate=own, audit_syslog_key=key))

        assert server.rows() == [(1, 1)]


def test_messages_are_those_of_the_export_with_a_limited_size(repository: AuditRepository, database_url: str) -> None:
    arrivals = Arrivals(database_url)
    arrivals.image()
    with transaction(database_url) as session:
        study = session.scalars(text("UPDATE studies SET patient_id = E'P\\x1b-17<é>' RETURNING id")).one()
    append(database_url, Chain("host:1"), 0, studies=(study,))
    append(database_url, Chain("host:2"), 1, studies=tuple(uuid.uuid4() for _ in range(100)))
    send_all(settings_of(repository, database_url))
    first, *others = (message(body) for body in repository.received)

    found = [each.get("ParticipantObjectID") for each in first.findall("ParticipantObjectIdentification")]
    assert found == [arrivals.uid, "P\ufffd-17<é>"]
    assert [len(each.findall("ParticipantObjectIdentification")) for each in others] == [40, 40, 20]
    assert max(len(body) for body in repository.received) < 32768


@pytest.mark.parametrize("patient_id", ['"' * 64, "&" * 1024, "\u3042" * 341])
def test_message_is_bounded_whatever_is_in_the_patient_ids(
    repository: AuditRepository, database_url: str, patient_id: str
) -> None:
    """A longer one need not be accepted, and would be sent again without end, with every later row behind it."""
    for _ in range(45):
        Arrivals(database_url).image()
    with transaction(database_url) as session:
        studies = session.scalars(text("UPDATE studies SET patient_id = :p RETURNING id"), {"p": patient_id}).all()
    append(database_url, Chain("host:1"), 0, studies=tuple(studies))
    send_all(settings_of(repository, database_url))

    assert max(map(len, repository.received)) <= 32_768
    named = [part.get("ParticipantObjectID") for each in repository.received for part in message(each).iter()]
    assert named.count(patient_id) == len(studies) == 45


def test_row_after_a_removed_one_and_of_a_chain_that_seemed_complete_is_sent(
    repository: AuditRepository, database_url: str
) -> None:
    old = Chain("host:1")
    append(database_url, old, 0, 1)
    append(database_url, Chain("host:2"), 2)
    settings = settings_of(repository, database_url)
    with transaction(database_url) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM audit_rows WHERE chain = 1 AND sequence = 1"))
        session.execute(text("UPDATE audit_chains SET started_at = now() - interval '3 days' WHERE number = 1"))
    send_all(settings)
    with transaction(database_url) as session:
        audit_queue.forward(session)
        assert session.scalar(text("SELECT first_chain FROM audit_syslog")) == 2
    append(database_url, old, 3)
    send_all(settings)

    assert repository.rows() == [(1, 2), (2, 1), (1, 3)]


def test_sending_that_is_switched_off_raises_no_alarm_and_goes_on_later(
    repository: AuditRepository, database_url: str
) -> None:
    chain, settings = Chain("host:1"), settings_of(repository, database_url)
    append(database_url, chain, 0)
    send_all(settings)
    append(database_url, chain, 1)
    sender.switch_off(settings)
    assert figures(database_url) == -1
    send_all(settings)

    assert [row[:2] for row in repository.named()] == [(1, 1), (1, 2)]


@pytest.mark.slow
def test_sender_that_is_killed_at_any_time_loses_no_row(repository: AuditRepository, database_url: str) -> None:
    repository.faults[:] = ["slow"] * 1000
    settings = settings_of(repository, database_url)
    environment = os.environ | {
        "PRELIM_DATABASE_URL": database_url,
        "PRELIM_DATA_DIR": str(settings.operations.data_dir),
        "PRELIM_AUDIT_SYSLOG_URL": str(settings.audit.audit_syslog_url),
        "PRELIM_AUDIT_SYSLOG_CA": str(repository.certificate),
    }
    chain = Chain("host:1")
    for kill in range(5):
        append(database_url, chain, *range(150))
        process = subprocess.Popen([sys.executable, "-m", "deploy.cli.entry", "audit-log", "send"], env=environment)
        seen = len(repository.received)
        wait_until(lambda seen=seen, kill=kill: len(repository.received) > seen + 30 * kill, seconds=60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    send_all(settings, attempts=100)

    assert repository.rows() == [(1, row) for row in range(1, 751)]
    assert sorted(set(repository.named())) == stored(database_url)
    with transaction(database_url) as session:
        assert session.execute(select(AuditSyslogSent.chain, AuditSyslogSent.sequence)).all() == [(1, 750)]
