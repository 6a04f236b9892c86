"""From files to rows: exactly once, whatever happens in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom.uid import generate_uid
from sqlalchemy import select

from db.models import Instance, Quarantined, Study
from db.session import transaction
from dicom_listener import index
from dicom_listener.storage import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive

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


def test_a_received_file_becomes_a_row_of_its_study(settings: Settings) -> None:
    dataset = image(AccessionNumber="A1", BodyPartExamined="CHEST", InstanceNumber=7)
    receive(settings, dataset)

    assert index.run_once(settings) == 1

    [study], [instance] = rows(settings, Study), rows(settings, Instance)
    assert (study.patient_name, study.accession_number) == ("Müller^Änne", "A1")
    assert (study.study_instance_uid, study.modality) == (dataset.StudyInstanceUID, "CT")
    assert (instance.sop_instance_uid, instance.instance_number) == (dataset.SOPInstanceUID, 7)
    assert (instance.body_part, instance.calling_ae_title, instance.reportable) == ("CHEST", "CT_1", True)
    stored = settings.data_dir / instance.file_path
    assert stored.read_bytes().endswith(encode(dataset))
    assert stored.stat().st_size == instance.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def test_the_same_object_again_is_no_new_row_and_no_file(settings: Settings) -> None:
    dataset = image()
    for _ in range(2):
        receive(settings, dataset)
        index.run_once(settings)
    receive(settings, dataset)
    receive(settings, dataset)
    index.run_once(settings)

    assert len(rows(settings, Instance)) == 1
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


def test_another_object_under_a_known_uid_is_quarantined_and_the_first_kept(settings: Settings) -> None:
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    index.run_once(settings)

    [instance], [other] = rows(settings, Instance), rows(settings, Quarantined)
    assert (settings.data_dir / instance.file_path).read_bytes().endswith(encode(first))
    assert (other.reason, other.sop_instance_uid) == ("conflicting_sop_instance", first.SOPInstanceUID)
    assert (settings.data_dir / other.file_path).stat().st_size == other.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(128) + b"DICM" + bytes(600)])
def test_a_file_that_is_none_of_ours_is_quarantined(settings: Settings, content: bytes) -> None:
    (Spool(settings.spool).inbox / "odd.dcm").write_bytes(content)
    index.run_once(settings)

    [odd] = rows(settings, Quarantined)
    assert (odd.reason, odd.file_bytes) == ("unreadable", len(content))
    assert files(settings) == {"inbox": 0, "store": 0, "quarantine": 1}


def test_an_image_damaged_after_it_was_acknowledged_is_quarantined(settings: Settings) -> None:
    path = receive(settings, image())
    path.write_bytes(path.read_bytes()[:-10])
    receive(settings, image())
    index.run_once(settings)

    assert [row.reason for row in rows(settings, Quarantined)] == ["unreadable"]
    assert len(rows(settings, Instance)) == 1


def test_control_characters_in_a_name_do_not_stop_the_index(settings: Settings) -> None:
    dataset = image()
    name = encode(dataset).replace("Müller^Änne".encode(), b"A\0\x1b[2J\xff\xfe^Anne"[:13])
    receive(settings, dataset, data=name)
    assert index.run_once(settings) == 1
    assert "\0" not in rows(settings, Study)[0].patient_name


@pytest.mark.parametrize("step", ["_shelve", "_record", "unlink"])
def test_a_crash_at_any_step_is_made_good_by_indexing_again(
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
        patch.setattr("pathlib.Path.unlink" if step == "unlink" else f"dicom_listener.index.Indexer.{step}", crash)
        with pytest.raises(Crash):
            index.run_once(settings)
    index.run_once(settings)

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (1, 1)
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}


def test_a_database_that_is_away_costs_nothing_but_time(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql+psycopg://x:x@127.0.0.1:1/x")})
    receive(settings, image())
    with pytest.raises(Exception, match="refused"):
        index.run_once(away)
    assert files(settings)["inbox"] == 1
    assert index.run_once(settings) == 1


def test_objects_of_one_study_share_its_row(settings: Settings) -> None:
    study = generate_uid()
    for number in range(5):
        receive(settings, image(StudyInstanceUID=study, InstanceNumber=number))
    index.run_once(settings)
    assert len(rows(settings, Study)) == 1
    assert len(rows(settings, Instance)) == 5
