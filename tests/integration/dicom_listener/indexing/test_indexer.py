"""Indexing: each file gets its rows exactly once, with crashes and failures in between."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import generate_uid
from sqlalchemy import text

from db.models import Instance, Quarantined, Study
from db.session import transaction
from db.studies.priority import HIGH, LOW, ROUTINE, STAT
from dicom_listener.indexing import file_locks, headers, indexer
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.indexing.spool_rows import files, rows
from tests.integration.dicom_listener.objects import encode, image, receive
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


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


def test_study_names_the_values_that_were_too_long_to_be_read(settings: Settings) -> None:
    uid, long = generate_uid(), "N" * 65_000
    with disable_value_validation():
        receive(settings, image(StudyInstanceUID=uid, PatientName=long, PatientID="P-1"))
        indexer.run_once(settings)
        receive(settings, image(StudyInstanceUID=uid, PatientName="Doe^Jane", PatientID="P-1", StudyDescription=long))
        indexer.run_once(settings)
    with transaction(settings.database()) as session:
        study = session.query(Study).one()

    assert (study.patient_name, study.study_description) == ("Doe^Jane", "")
    assert study.not_read == ["patient_name", "study_description"]


def test_objects_of_one_study_share_its_row(settings: Settings) -> None:
    study = generate_uid()
    for number in range(5):
        receive(settings, image(StudyInstanceUID=study, InstanceNumber=number))
    indexer.run_once(settings)
    assert len(rows(settings, Study)) == 1
    assert len(rows(settings, Instance)) == 5


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
