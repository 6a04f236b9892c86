"""Indexing: each file gets its rows exactly once, with crashes and failures in between."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import struct
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from sqlalchemy import select, text

from db.models import Instance, Quarantined, Study
from db.session import transaction
from db.studies.priority import HIGH, LOW, ROUTINE, STAT
from deploy.operate import audit
from dicom_listener.dicom.uids import STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.indexing import file_locks, headers, indexer, unreadable
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.inbox import Inbox
from tests.fuzz.wire import explicit, implicit
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive, received
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    Spool(settings.spool).prepare()
    return settings


def rows(settings: Settings, table: type[Study | Instance | Quarantined]) -> list[Any]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(table)))


def files(settings: Settings) -> dict[str, int]:
    spool = Spool(settings.spool)
    return {folder.name: len(list(folder.rglob("*.*"))) for folder in (spool.inbox, spool.store, spool.quarantine)}


def test_received_file_becomes_a_row_of_its_study(settings: Settings) -> None:
    dataset = image(AccessionNumber="A1", BodyPartExamined="CHEST", InstanceNumber=7)
    receive(settings, dataset)

    assert indexer.run_once(settings) == 1

    [study], [instance] = rows(settings, Study), rows(settings, Instance)
    assert (study.patient_name, study.accession_number) == ("Müller^Änne", "A1")
    assert (study.study_instance_uid, study.modality) == (dataset.StudyInstanceUID, "CT")
    assert (instance.sop_instance_uid, instance.instance_number) == (dataset.SOPInstanceUID, 7)
    assert (instance.body_part, instance.calling_ae_title, instance.reportable) == ("CHEST", "CT_1", True)
    stored = settings.operations.data_dir / instance.file_path
    assert stored.read_bytes().endswith(encode(dataset))
    assert stored.stat().st_size == instance.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def test_same_object_again_makes_no_row_and_no_file(settings: Settings) -> None:
    dataset = image()
    for _ in range(2):
        receive(settings, dataset)
        indexer.run_once(settings)
    receive(settings, dataset)
    receive(settings, dataset)
    indexer.run_once(settings)

    assert len(rows(settings, Instance)) == 1
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def damage(path: Path, kind: str) -> None:
    """Damage a stored file; `loop` and `directory` are damaged entries, which rename cannot always replace."""
    if kind == "bit":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        return
    path.unlink()
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "directory":
        (path / "lost").mkdir(parents=True)


@pytest.mark.parametrize("kind", ["missing", "bit", "loop", "directory"])
def test_resent_object_repairs_its_missing_or_damaged_file(settings: Settings, kind: str) -> None:
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    damage(settings.operations.data_dir / before.file_path, kind)

    receive(settings, dataset, calling_ae_title="A_LONGER_TITLE")
    receive(settings, dataset)
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    stored = settings.operations.data_dir / instance.file_path
    assert headers.digest(stored) == headers.Digest(instance.file_bytes, instance.sha256)
    assert (instance.file_path == before.file_path) is (kind != "directory")
    assert [path for path in Spool(settings.spool).store.glob("*/*.dcm") if path.is_file()] == [stored]
    assert files(settings)["inbox"] == 0


def report(settings: Settings) -> None:
    """Let the study be reported, as after its job."""
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE studies SET state = 'reported', settled_at = now(), settle_reason = 'quiet'"))


@pytest.mark.parametrize(
    ("values", "is_taken"),
    [
        ({"InstanceCreationTime": "101112"}, True),
        ({"PatientID": "P-2"}, False),
        ({"StudyInstanceUID": "2.25.1"}, False),
        ({"SeriesInstanceUID": "2.25.1"}, False),
    ],
)
def test_other_version_of_an_object_replaces_a_lost_file_of_its_study_only(
    settings: Settings, values: dict[str, str], is_taken: bool
) -> None:
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    (settings.operations.data_dir / before.file_path).unlink()
    report(settings)

    receive(settings, image(**{element.keyword: element.value for element in dataset} | values))
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    stored = settings.operations.data_dir / instance.file_path
    assert stored.exists() is is_taken
    assert len(rows(settings, Quarantined)) == (not is_taken)
    assert rows(settings, Study)[0].revision == instance.revision == (2 if is_taken else 1), "its pixels may differ"
    if is_taken:
        assert headers.digest(stored) == headers.Digest(instance.file_bytes, instance.sha256)
        assert audit.check(settings) == []
        assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


@pytest.mark.parametrize("step", ["pathlib.Path.replace", "dicom_listener.indexing.repair.sync_directory"])
def test_repair_that_was_interrupted_is_repeated(
    settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    (settings.operations.data_dir / before.file_path).unlink()
    receive(settings, dataset, calling_ae_title="A_LONGER_TITLE")
    with monkeypatch.context() as patch:
        patch.setattr(step, crash)
        with pytest.raises(Crash):
            indexer.run_once(settings)
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    assert (settings.operations.data_dir / instance.file_path).stat().st_size == instance.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def test_another_object_with_a_known_uid_is_quarantined(settings: Settings) -> None:
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    indexer.run_once(settings)

    [instance], [other] = rows(settings, Instance), rows(settings, Quarantined)
    assert (settings.operations.data_dir / instance.file_path).read_bytes().endswith(encode(first))
    assert (other.reason, other.sop_instance_uid) == ("conflicting_sop_instance", first.SOPInstanceUID)
    assert (settings.operations.data_dir / other.file_path).stat().st_size == other.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(128) + b"DICM" + bytes(600)])
def test_foreign_file_is_quarantined(settings: Settings, content: bytes) -> None:
    (Spool(settings.spool).inbox / "odd.dcm").write_bytes(content)
    indexer.run_once(settings)

    [odd] = rows(settings, Quarantined)
    assert (odd.reason, odd.file_bytes) == ("unreadable", len(content))
    assert files(settings) == {"inbox": 0, "store": 0, "quarantine": 1}


def test_no_transaction_is_open_while_a_file_is_read_or_a_folder_is_flushed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image()
    for dataset in (first, image(SOPInstanceUID=first.SOPInstanceUID)):
        receive(settings, dataset)
    (Spool(settings.spool).inbox / "odd.dcm").write_bytes(b"no DICOM")
    found = []

    def noted(call: Any) -> Any:
        def note(path: Path) -> Any:
            with transaction(settings.database()) as session:
                query = (
                    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
                )
                found.append(session.scalar(text(query)))
            return call(path)

        return note

    for module, name in ((headers, "digest"), (indexer, "sync_directory")):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    indexer.run_once(settings)

    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 2}
    assert len(found) >= 4
    assert set(found) == {0}


@pytest.mark.parametrize("interrupted", [False, True])
def test_link_in_quarantine_of_an_interrupted_run_is_removed_when_the_file_is_indexed(
    settings: Settings, interrupted: bool
) -> None:
    path = receive(settings, image())
    if interrupted:
        os.link(path, Spool(settings.spool).quarantined_path(path))
    indexer.run_once(settings)

    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}
    assert audit.check(settings) == []


def test_image_damaged_on_disk_is_quarantined(settings: Settings) -> None:
    path = receive(settings, image())
    path.write_bytes(path.read_bytes()[:-10])
    receive(settings, image())
    indexer.run_once(settings)

    assert [row.reason for row in rows(settings, Quarantined)] == ["unreadable"]
    assert len(rows(settings, Instance)) == 1


def test_control_characters_in_a_name_are_removed(settings: Settings) -> None:
    dataset = image()
    name = encode(dataset).replace("Müller^Änne".encode(), b"A\0\x1b[2J\xff\xfe^Anne"[:13])
    receive(settings, dataset, data=name)
    assert indexer.run_once(settings) == 1
    assert "\0" not in rows(settings, Study)[0].patient_name


@pytest.mark.parametrize("step", ["_place", "_record", "unlink"])
def test_crash_at_any_step_is_repaired_by_indexing_again(
    settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    first = image()
    receive(settings, first)
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    with monkeypatch.context() as patch:
        patch.setattr(
            "pathlib.Path.unlink" if step == "unlink" else f"dicom_listener.indexing.indexer.Indexer.{step}", crash
        )
        with pytest.raises(Crash):
            indexer.run_once(settings)
    indexer.run_once(settings)

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (1, 1)
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}


@pytest.mark.parametrize(
    ("reception", "requested", "priority"),
    [
        ({}, "", ROUTINE),
        ({"priority": 1}, "", HIGH),
        ({"priority": 2}, "", LOW),
        ({}, "STAT", STAT),
        ({}, "MEDIUM", ROUTINE),
        ({}, "AT ONCE", ROUTINE),
        ({"priority": 1}, "STAT", STAT),
        ({"calling_ae_title": "ER"}, "", STAT),
        ({"called_ae_title": "PRELIM_STUDY"}, "", LOW),
        ({"called_ae_title": "PRELIM_STUDY", "priority": 1}, "ROUTINE", HIGH),
    ],
)
def test_priority_combines_sender_requested_procedure_and_site_rules(
    settings: Settings, reception: dict[str, object], requested: str, priority: int
) -> None:
    rules = {"priority_rules": {"ER": "STAT", "PRELIM_STUDY": "LOW"}}
    receive(settings, image(RequestedProcedurePriority=requested), **reception)
    indexer.run_once(settings.replace(**rules))

    assert [study.priority for study in rows(settings, Study)] == [priority]


def test_study_gets_the_highest_priority_of_its_objects(settings: Settings) -> None:
    study = generate_uid()
    for requested in ("", "STAT", ""):
        receive(settings, image(StudyInstanceUID=study, RequestedProcedurePriority=requested))
    indexer.run_once(settings)

    assert [study.priority for study in rows(settings, Study)] == [STAT]


@pytest.mark.parametrize("step", ["_read", "_place", "_record"])
def test_files_indexed_by_another_dispatcher_are_skipped(
    settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image()
    receive(settings, first)
    receive(settings, first)
    take_step = getattr(indexer.Indexer, step)

    def run_another_first(slower: indexer.Indexer, *arguments: object) -> object:
        monkeypatch.setattr(indexer.Indexer, step, take_step)
        indexer.run_once(settings)
        return take_step(slower, *arguments)

    monkeypatch.setattr(indexer.Indexer, step, run_another_first)
    indexer.run_once(settings)

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (1, 0)
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def test_file_locked_by_a_frozen_dispatcher_is_indexed_after_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = receive(settings, image())
    with file_locks.held([path]):
        assert indexer.run_once(settings) == 0
        monkeypatch.setattr(file_locks, "FROZEN_SECONDS", 0)
        assert indexer.run_once(settings) == 1
    assert len(rows(settings, Instance)) == 1


def test_unreachable_database_only_delays_indexing(settings: Settings) -> None:
    away = settings.replace(database_url=SecretStr("postgresql+psycopg://x:x@127.0.0.1:1/x"))
    receive(settings, image())
    with pytest.raises(Exception, match="refused"):
        indexer.run_once(away)
    assert files(settings)["inbox"] == 1
    assert indexer.run_once(settings) == 1


def test_study_keeps_the_request_of_all_its_objects(settings: Settings) -> None:
    uid = generate_uid()
    for reason in ("Cough", "cough", "Fever"):
        receive(settings, image(StudyInstanceUID=uid, ReasonForTheRequestedProcedure=reason))
    indexer.run_once(settings)
    item = Dataset()
    item.RequestedProcedureDescription = "CT of chest"
    receive(settings, image(StudyInstanceUID=uid, RequestAttributesSequence=[item]))
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        study = session.query(Study).one()

    assert study.indication is not None
    assert {text.casefold() for text in study.indication.split("; ")} == {"cough", "fever"}
    assert study.requested_procedure == "CT of chest"


def test_objects_of_one_study_share_its_row(settings: Settings) -> None:
    study = generate_uid()
    for number in range(5):
        receive(settings, image(StudyInstanceUID=study, InstanceNumber=number))
    indexer.run_once(settings)
    assert len(rows(settings, Study)) == 1
    assert len(rows(settings, Instance)) == 5


def put(settings: Settings, operation: str, data: bytes, syntax: str = ImplicitVRLittleEndian) -> None:
    """Write a request to the inbox as the listener does."""
    reception = dataclasses.replace(received(), operation=operation)
    inbox = Inbox(Spool(settings.spool).unowned)
    inbox.open()
    writer = inbox.begin(file_meta.encode(STORAGE_COMMITMENT_PUSH_MODEL, "1.2.3", syntax, reception))
    writer.write(data)
    writer.commit()
    inbox.close()


def quarantined_beside_a_valid_one(settings: Settings) -> str:
    """Index all files and one valid image; returns the detail of the quarantined one."""
    receive(settings, image())
    while indexer.run_once(settings):
        pass
    assert len(rows(settings, Instance)) == 1
    assert files(settings)["inbox"] == 0
    [row] = rows(settings, Quarantined)
    return str(row.detail)


@pytest.mark.parametrize("character_set", ["base64", "idna", "unicode_escape", "ISO 2022 IR 87", "no such set", "\\"])
def test_unknown_character_set_is_indexed(settings: Settings, character_set: str) -> None:
    dataset = image(SpecificCharacterSet="ISO_IR 100", PatientID="0123456789")
    data = encode(dataset).replace(b"0123456789", b"\x1b$B\xff\xfe\x1b$)C\\")
    padded = character_set.ljust(len(character_set) + len(character_set) % 2).encode()
    named = struct.pack("<HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 100"
    data = data.replace(named, struct.pack("<HH2sH", 8, 5, b"CS", len(padded)) + padded)
    receive(settings, dataset, data=data)
    receive(settings, image())
    assert indexer.run_once(settings) == 2
    assert len(rows(settings, Instance)) == 2


@pytest.mark.parametrize(
    ("operation", "syntax", "data"),
    [
        # pydicom calls it an OSError.
        (
            file_meta.N_ACTION,
            ExplicitVRLittleEndian,
            explicit(0x00081195, b"UI", b"1.2.3\0") + struct.pack("<HH2sHI", 8, 0x1199, b"SQ", 0, 2) + b"\xfe\xff",
        ),
        (file_meta.N_ACTION, ExplicitVRLittleEndian, b"\xff" * 40),
        (
            file_meta.N_CREATE,
            ImplicitVRLittleEndian,
            implicit(0x00400252, b"IN PROGRESS ")
            + implicit(0x00400270, implicit(0xFFFEE000, implicit(0x0020000D, b"1" * 20_000))),
        ),
        (file_meta.N_CREATE, ImplicitVRLittleEndian, implicit(0x00400252, b"IN PROGRESS ")),
    ],
    ids=["cut sequence", "garbage", "long study UID", "no study"],
)
def test_malformed_request_is_quarantined_and_the_rest_indexed(
    settings: Settings, operation: str, syntax: str, data: bytes
) -> None:
    put(settings, operation, data, syntax)
    assert f"malformed {operation}" in quarantined_beside_a_valid_one(settings)


def test_file_with_an_unexpected_error_is_quarantined_and_the_rest_indexed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    read = headers.read

    def stumble(path: Path, *more: Any) -> Any:
        if path == odd:
            raise LookupError("Müller^Änne")
        return read(path, *more)

    monkeypatch.setattr(headers, "read", stumble)
    assert quarantined_beside_a_valid_one(settings) == "indexing failed (LookupError)"


class Disk:
    """A disk that returns an error for some files, whenever they are opened, examined or linked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, int] = {}
        for module, call in ((pathlib.Path, "open"), (pathlib.Path, "lstat"), (os, "link")):
            monkeypatch.setattr(module, call, self._failing(getattr(module, call)))

    def _failing(self, call: Any) -> Any:
        def checked(path: Path, *arguments: Any, **options: Any) -> Any:
            code = self.errors.get(path.name) or self.errors.get("*")
            if code is not None:
                raise OSError(code, os.strerror(code))
            return call(path, *arguments, **options)

        return checked


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("code", [errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EACCES, errno.ESTALE])
def test_file_with_a_disk_error_is_named_and_the_rest_indexed(settings: Settings, disk: Disk, code: int) -> None:
    odd = receive(settings, image())
    for _ in range(3):
        receive(settings, image())
    disk.errors[odd.name] = code

    assert indexer.run_once(settings) == 4
    assert indexer.run_once(settings) == 0, "it rests"

    [row] = rows(settings, Quarantined)
    assert (row.reason, row.detail) == ("file_error", f"the file cannot be read: {os.strerror(code)}")
    assert len(rows(settings, Instance)) == 3
    assert (odd.exists(), row.file_path) == (True, f"spool/inbox/{odd.name}"), "it cannot be linked either"


@pytest.mark.parametrize("content", [b"no DICOM", "a conflict"])
def test_readable_file_that_cannot_be_linked_is_named_and_the_rest_indexed(
    settings: Settings, content: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image()
    receive(settings, first)
    if isinstance(content, bytes):
        odd = Spool(settings.spool).inbox / f"{uuid.uuid4().hex}.dcm"
        odd.write_bytes(content)
    else:
        odd = receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    receive(settings, image())
    link = os.link

    def refuse(source: Path, target: Path, **options: Any) -> None:
        if target.name == odd.name and target.parent.name == "quarantine":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)
    assert indexer.run_once(settings) == 3
    assert indexer.run_once(settings) == 0, "it rests"

    [row] = rows(settings, Quarantined)
    assert (row.file_path, len(row.sha256)) == (f"spool/inbox/{odd.name}", 64)
    assert len(rows(settings, Instance)) == 2
    assert (odd.exists(), audit.check(settings)) == (True, [])


def test_file_that_cannot_be_removed_is_indexed_once_and_does_not_stop_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [receive(settings, image()) for _ in range(4)]
    unlink = pathlib.Path.unlink

    def fail(path: Path, *, missing_ok: bool = False) -> None:
        if path == paths[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", fail)
        assert indexer.run_once(settings) == 4
        assert [path.exists() for path in paths] == [True, False, False, False]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)
    assert indexer.run_once(settings) == 1

    assert len(rows(settings, Instance)) == 4
    assert files(settings) == {"inbox": 0, "store": 4, "quarantine": 0}


def test_file_that_another_dispatcher_indexed_after_a_disk_error_is_not_quarantined(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    read_meta = headers.read_meta

    def fails(_: Path) -> Any:
        with monkeypatch.context() as other:
            other.setattr(headers, "read_meta", read_meta)
            # The lock of a dispatcher that waits for its disk is ignored after a while.
            other.setattr(file_locks, "FROZEN_SECONDS", -1.0)
            assert indexer.run_once(settings) == 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(headers, "read_meta", fails)
    indexer.run_once(settings)

    assert rows(settings, Quarantined) == []
    assert len(rows(settings, Instance)) == 1
    assert not odd.exists()


@pytest.mark.parametrize("interrupted_at", ["before the commit", "after the commit"])
def test_file_that_fails_after_an_interrupted_run_is_stored_only_if_it_has_a_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, interrupted_at: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    def fails(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    receive(settings, image())
    step = {"before the commit": "db.studies.batches.record", "after the commit": "pathlib.Path.unlink"}[interrupted_at]
    with monkeypatch.context() as patch:
        patch.setattr(step, crash)
        with pytest.raises(SystemExit):
            indexer.run_once(settings)
    monkeypatch.setattr(headers, "read_meta", fails)
    indexer.run_once(settings)

    stored = len(rows(settings, Instance))
    assert stored == (interrupted_at == "after the commit")
    assert files(settings) == {"inbox": 0, "store": stored, "quarantine": 1}
    assert audit.check(settings) == []


def test_link_in_the_store_stays_while_another_dispatcher_could_index_the_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = receive(settings, image())
    os.link(path, Spool(settings.spool).stored_path(path))
    with file_locks.held([path]), monkeypatch.context() as patch:
        patch.setattr(file_locks, "FROZEN_SECONDS", -1.0)
        patch.setattr(headers, "read_meta", fails)
        indexer.run_once(settings)
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}

    [found] = audit.check(settings)
    assert audit.repair_violation(settings, found)
    indexer.run_once(settings)
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert audit.check(settings) == []


def test_file_that_can_be_read_again_leaves_quarantine(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    disk.errors[odd.name] = errno.EACCES
    indexer.run_once(settings)
    del disk.errors[odd.name]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)

    assert indexer.run_once(settings) == 1
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["directory", "loop", "dangling", "pipe"])
def test_entry_that_is_no_file_does_not_stop_the_others(settings: Settings, kind: str) -> None:
    odd = Spool(settings.spool).inbox / "odd.dcm"
    if kind == "directory":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(odd if kind == "loop" else "missing")
    receive(settings, image())

    assert indexer.run_once(settings) == 2
    assert indexer.run_once(settings) == 0
    assert [row.reason for row in rows(settings, Quarantined)] == ["file_error"]
    assert len(rows(settings, Instance)) == 1


def test_several_unreadable_files_in_a_row_wait_and_the_rest_is_indexed(settings: Settings, disk: Disk) -> None:
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    receive(settings, image())
    disk.errors |= {path.name: errno.EIO for path in odd}

    assert indexer.run_once(settings) == 4
    assert indexer.run_once(settings) == 0
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert unreadable.of_spool(settings.spool).info() == {"files": 3, "error": os.strerror(errno.EIO)}


def test_several_unreadable_files_in_a_row_are_set_aside_at_their_second_visit(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    disk.errors |= {path.name: errno.EUCLEAN for path in odd}
    indexer.run_once(settings)
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)
    indexer.run_once(settings)

    assert [row.reason for row in rows(settings, Quarantined)] == ["file_error"] * 3
    assert unreadable.of_spool(settings.spool).info() is None


def test_many_unreadable_files_wait_until_another_one_is_read(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "MAX_WITHOUT_READ", 2)
    monkeypatch.setattr(unreadable, "PAUSE_SECONDS", 0)
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    disk.errors |= {path.name: errno.EUCLEAN for path in odd}
    for _ in range(2):
        indexer.run_once(settings)
    assert rows(settings, Quarantined) == []
    receive(settings, image())
    for _ in range(2):
        indexer.run_once(settings)

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (1, 3)


def test_missing_folder_of_the_store_quarantines_nothing(settings: Settings) -> None:
    receive(settings, image())
    folders = list(Spool(settings.spool).store.iterdir())
    for folder in folders:
        folder.rmdir()
    with pytest.raises(FileNotFoundError):
        indexer.run_once(settings)
    for folder in folders:
        folder.mkdir()
    assert indexer.run_once(settings) == 1
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])


def test_disk_that_fails_altogether_quarantines_nothing(settings: Settings, disk: Disk) -> None:
    receive(settings, image())
    disk.errors["*"] = errno.EIO
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            indexer.run_once(settings)
    assert unreadable.of_spool(settings.spool).info() == {"files": 1, "error": os.strerror(errno.EIO)}

    disk.errors.clear()
    assert indexer.run_once(settings) == 1
    assert unreadable.of_spool(settings.spool).info() is None
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])


def test_locked_row_waits_and_the_rest_is_indexed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "PAUSE_SECONDS", 0.2)
    odd = receive(settings, image(PatientID="LOCKED"))
    received_at = odd.stat().st_mtime
    receive(settings, image())
    with transaction(settings.database()) as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.patient_id = 'LOCKED' THEN RAISE 'not now' USING ERRCODE = '55P03'; END IF; RETURN NEW; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON studies FOR EACH ROW EXECUTE FUNCTION refuse()"))
    assert indexer.run_once(settings) == 1
    assert indexer.run_once(settings) == 0
    assert odd.stat().st_mtime == received_at, "the order of requests stays"
    assert rows(settings, Quarantined) == []
    with transaction(settings.database()) as session:
        session.execute(text("DROP TRIGGER refuse ON studies"))
    wait_until(lambda: indexer.run_once(settings) == 1)
    assert len(rows(settings, Instance)) == 2
