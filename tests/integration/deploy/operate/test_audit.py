"""`prelim audit` on stored files: what it finds and what it can repair."""

from __future__ import annotations

import datetime as dt
import io
import os
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from db.operations.invariants import Violation
from db.session import transaction
from db.studies import procedure_steps
from db.studies.settling import study_key
from deploy.operate import audit
from dicom_listener.indexing import headers, indexer
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received, study_of, tag
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive, store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with one object in its store and one in quarantine."""
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID, PatientID="P-2"))
    indexer.run_once(settings)
    return settings


def violated(settings: Settings) -> list[str]:
    return [violation.rule for violation in audit.check(settings)]


def stored(settings: Settings) -> Path:
    [path] = Spool(settings.spool).store.rglob("*.dcm")
    return path


def test_intact_spool_has_no_violations(settings: Settings) -> None:
    receive(settings, image())

    assert violated(settings) == []


def test_missing_file_is_found(settings: Settings) -> None:
    stored(settings).unlink()

    assert violated(settings) == [audit.NO_FILE]


def test_truncated_file_is_found(settings: Settings) -> None:
    os.truncate(stored(settings), 100)

    assert violated(settings) == [audit.OTHER_SIZE]


def test_flipped_bit_is_found(settings: Settings) -> None:
    content = bytearray(stored(settings).read_bytes())
    content[-1] ^= 1
    stored(settings).write_bytes(content)

    assert violated(settings) == [audit.OTHER_DIGEST]


def test_file_without_a_row_moves_to_the_path_of_its_name(settings: Settings) -> None:
    store(settings, image())
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM instances; DELETE FROM studies"))
    assert violated(settings) == [audit.NO_ROW] * 2

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert all(study_of(path) for path in received(Spool(settings.spool))), "other studies must settle beside them"
    indexer.run_once(settings)

    assert violated(settings) == []


@pytest.mark.parametrize("loss", ["DELETE FROM instances; DELETE FROM studies", "DELETE FROM quarantine"])
def test_file_without_a_row_is_repaired_by_indexing_it_again(settings: Settings, loss: str) -> None:
    with transaction(settings.database()) as session:
        session.execute(text(loss))
    assert violated(settings) == [audit.NO_ROW]

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    indexer.run_once(settings)

    assert violated(settings) == []


def test_abandoned_part_file_is_removed(settings: Settings) -> None:
    part = Spool(settings.spool).inbox / "left.part"
    part.write_bytes(b"half")
    assert violated(settings) == []
    os.utime(part, (0, 0))

    assert violated(settings) == [audit.STALE]
    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert not part.exists()


def test_abandoned_object_is_flushed_before_it_is_linked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image()
    part = receive(settings, dataset).rename(Spool(settings.spool).inbox / "killed.part")
    os.utime(part, (0, 0))
    linked = part.with_name(f"killed{tag(study_key(dataset.StudyInstanceUID), urgent=False)}.dcm")
    linked_at_flush: list[bool] = []
    flush = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: linked_at_flush.append(linked.exists()) or flush(fd))

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert linked_at_flush == [False]
    assert linked.exists()


def test_missing_file_cannot_be_repaired_and_stays_listed(settings: Settings) -> None:
    stored(settings).unlink()

    assert audit.show(settings, Console(quiet=True), repair=True) == 1


@pytest.mark.parametrize("step", ["_place", "_record"])
def test_duplicate_between_two_dispatchers_is_no_violation(
    settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    receive(settings, dataset)
    take_step = getattr(indexer.Indexer, step)
    found: list[str] = []

    def audit_beside_another(slower: indexer.Indexer, *arguments: object) -> object:
        monkeypatch.setattr(indexer.Indexer, step, take_step)
        before = take_step(slower, *arguments)
        assert indexer.run_once(settings) == 0
        found.extend(violated(settings))
        return before

    monkeypatch.setattr(indexer.Indexer, step, audit_beside_another)
    indexer.run_once(settings)

    assert (found, violated(settings)) == ([], [])


def test_file_that_cannot_be_read_is_one_violation_beside_the_others(settings: Settings) -> None:
    receive(settings, dataset := image())
    indexer.run_once(settings)
    bad, missing = Spool(settings.spool).store.rglob("*.dcm")
    bad.unlink()
    bad.symlink_to(bad)
    missing.unlink()
    assert dataset.SOPInstanceUID

    assert sorted(violated(settings)) == [audit.UNREADABLE, audit.NO_FILE]


def test_quarantined_file_that_cannot_be_read_is_no_violation(settings: Settings) -> None:
    (Spool(settings.spool).inbox / "odd.dcm").mkdir()
    indexer.run_once(settings)

    assert violated(settings) == []


def test_acknowledged_file_that_is_never_indexed_is_found(settings: Settings) -> None:
    os.utime(receive(settings, image()), (0, 0))

    assert violated(settings) == [audit.INDEXED_SOON]


def test_many_rows_are_read_in_pages_without_an_open_transaction(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        receive(settings, image())
    indexer.run_once(settings)
    monkeypatch.setattr(audit, "PAGE", 2)
    open_transactions = []
    digest = headers.digest

    def read(path: Path) -> headers.Digest:
        with transaction(settings.database()) as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
            open_transactions.append(session.scalar(text(query)))
        return digest(path)

    monkeypatch.setattr(headers, "digest", read)
    assert violated(settings) == []
    assert open_transactions == [0] * 5


@pytest.mark.parametrize(
    ("scope", "files"),
    [
        (audit.Scope(sample=1), 2),
        (audit.Scope(sample=50), 5),
        (audit.Scope(since=dt.timedelta(hours=1)), 3),
        (audit.Scope(sample=50, since=dt.timedelta(hours=1)), 3),
    ],
)
def test_part_of_the_files_is_read(
    settings: Settings, scope: audit.Scope, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET indexed_at = now() - interval '1 day'"))
        session.execute(text("UPDATE quarantine SET indexed_at = now() - interval '1 day'"))
    for _ in range(3):
        receive(settings, image())
    indexer.run_once(settings)
    read = []
    digest = headers.digest
    monkeypatch.setattr(headers, "digest", lambda path: read.append(path) or digest(path))

    assert list(audit.violations(settings, scope)) == []
    assert len(read) == files


def test_interrupted_audit_continues_after_the_last_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        receive(settings, image())
    indexer.run_once(settings)
    monkeypatch.setattr(audit, "PAGE", 1)
    read: list[Path] = []
    digest = headers.digest

    def digest_or_end(path: Path) -> headers.Digest:
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path)
        return digest(path)

    monkeypatch.setattr(headers, "digest", digest_or_end)
    whole = audit.Scope(resume=True)
    with pytest.raises(KeyboardInterrupt):
        list(audit.violations(settings, whole))
    monkeypatch.setattr(headers, "digest", lambda path: read.append(path) or digest(path))

    assert list(audit.violations(settings, whole)) == []
    assert len(read) == len(set(read)) == 5
    assert list(audit.violations(settings, whole)) == []
    assert len(read) == 10


@pytest.mark.parametrize("position", ["", "[]", '{"instances": 3}', '{"instances": "3"}'])
def test_damaged_position_makes_the_audit_read_all_files(settings: Settings, position: str) -> None:
    (settings.operations.data_dir / "audit-position.json").write_text(position)
    stored(settings).unlink()

    assert [violation.rule for violation in audit.violations(settings, audit.Scope(resume=True))] == [audit.NO_FILE]


def test_violations_are_printed_when_they_are_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, file=io.StringIO())

    def interrupted(*_: object) -> Iterator[Violation]:
        yield Violation("a rule", "study 1")
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "violations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit.show(settings, console, repair=False)
    assert console.export_text() == "violation: a rule: study 1\n"


def test_abandoned_procedure_step_is_ended(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        procedure_steps.begin(session, "1.2", "1.3", "IN PROGRESS")
        session.execute(text("UPDATE procedure_steps SET updated_at = now() - interval '1 year'"))

    assert audit.show(settings, Console(quiet=True), repair=True) == 0
    assert violated(settings) == []
