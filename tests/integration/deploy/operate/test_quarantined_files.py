"""`prelim quarantine take`: an object resent with corrected demographics replaces the stored one."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select

from db.errors import NotPossible
from db.models import IdentityDecision, Instance, Quarantined, Study
from db.operations import quarantine
from db.session import transaction
from db.studies.identity import decisions
from deploy.operate import audit, quarantined_files
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pydicom import Dataset

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_for(tmp_path, database_url=SecretStr(database_url))


def resent(settings: Settings, **values: Any) -> Dataset:
    """Send an object, then the same with *values*; return the second."""
    first = image(PatientName="", StudyDescription="")
    second = image(**{e.keyword: e.value for e in first} | {"PatientName": "Roe^Rita", "PatientID": "P-2"} | values)
    for dataset in (first, second):
        receive(settings, dataset)
        indexer.run_once(settings)
    return second


def take(settings: Settings, name: str) -> tuple[int, str]:
    text = io.StringIO()
    return quarantined_files.take(settings, Console(file=text, width=300), name), text.getvalue()


def one(settings: Settings, table: type[Any]) -> Any:
    with transaction(settings.database()) as session:
        return session.scalars(select(table)).one()


def test_corrected_object_replaces_the_stored_one(settings: Settings) -> None:
    corrected = resent(settings)
    assert quarantined_name(settings) != ""

    assert take(settings, quarantined_name(settings))[0] == 0

    study, instance, row = one(settings, Study), one(settings, Instance), one(settings, Quarantined)
    assert (study.patient_name, study.patient_id) == ("Roe^Rita", "P-2")
    assert (settings.operations.data_dir / instance.file_path).read_bytes().endswith(encode(corrected))
    assert row.reason == "replaced"
    assert audit.check(settings) == []
    with transaction(settings.database()) as session:
        assert decisions.sentences(session, study.id) == [
            "Demographics corrected by an operator: Patient ID, Patient's Name."
        ]
        assert quarantine.counts(session)["conflicting_sop_instance"] == 0
    assert one(settings, IdentityDecision).decided_by.startswith("user ")
    # Objects that still have the old demographics belong to the study.
    receive(settings, image(StudyInstanceUID=corrected.StudyInstanceUID, PatientName="", PatientID="P-1"))
    indexer.run_once(settings)
    assert one(settings, Study).state == "receiving"


def quarantined_name(settings: Settings) -> str:
    return str(one(settings, Quarantined).id)


def test_all_objects_of_a_study_are_taken_at_once(settings: Settings) -> None:
    corrected = resent(settings)
    assert take(settings, corrected.StudyInstanceUID) == (0, "1 of 1 objects replaced\n")
    assert take(settings, corrected.StudyInstanceUID) == (0, "0 of 0 objects replaced\n")


def test_older_correction_does_not_replace_the_latest(settings: Settings) -> None:
    mistaken = resent(settings, PatientName="Row^Rita")
    receive(settings, image(**{e.keyword: e.value for e in mistaken} | {"PatientName": "Roe^Rita"}))
    indexer.run_once(settings)

    assert take(settings, mistaken.StudyInstanceUID) == (0, "1 of 1 objects replaced\n")
    assert take(settings, mistaken.StudyInstanceUID) == (0, "0 of 0 objects replaced\n")
    assert one(settings, Study).patient_name == "Roe^Rita"


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"PixelData": bytes(63) + b"\1"}, "PixelData"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "the description of the pixels"),
        ({"StudyInstanceUID": "2.25.1"}, "StudyInstanceUID"),
    ],
)
def test_object_with_other_pixels_is_not_taken(settings: Settings, values: dict[str, Any], cause: str) -> None:
    resent(settings, **values)

    failed, printed = take(settings, quarantined_name(settings))

    assert failed == 1
    assert cause in printed
    assert one(settings, Quarantined).reason == "conflicting_sop_instance"
    assert audit.check(settings) == []


def test_refused_exchange_leaves_no_link(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    resent(settings)

    def refuse(*_: object) -> None:
        raise NotPossible("the study is held")

    monkeypatch.setattr(quarantined_files.replacement, "replace", refuse)

    assert take(settings, quarantined_name(settings))[0] == 1
    assert audit.check(settings) == []


def test_exchange_of_a_file_that_was_moved_meanwhile_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    resent(settings)
    linked = quarantined_files._link

    def link_and_move(links: dict[Path, Path]) -> None:
        linked(links)
        with transaction(settings.database()) as session:
            session.scalars(select(Instance)).one().file_path = "spool/store/ab/elsewhere.dcm"

    monkeypatch.setattr(quarantined_files, "_link", link_and_move)

    failed, printed = take(settings, quarantined_name(settings))

    assert failed == 1
    assert "replaced in the meantime" in printed
    assert one(settings, Quarantined).reason == "conflicting_sop_instance"


@pytest.mark.parametrize("committed", [False, True])
def test_interrupted_exchange_is_repaired(settings: Settings, *, committed: bool) -> None:
    resent(settings)
    data_dir, spool = settings.operations.data_dir, Spool(settings.spool)
    new, old = (data_dir / one(settings, table).file_path for table in (Quarantined, Instance))
    # Each file is linked to its new path before the commit, and loses its old one after it.
    links = {new: spool.stored_path(new), old: spool.quarantine / old.name}
    if committed:
        take(settings, quarantined_name(settings))
        links = {link: path for path, link in links.items()}
    for path, link in links.items():
        os.link(path, link)
    assert [violation.rule for violation in audit.check(settings)] == [audit.NO_ROW] * 2

    audit.show(settings, Console(file=io.StringIO()), repair=True)
    while indexer.run_once(settings):
        pass

    assert audit.check(settings) == []
    assert one(settings, Quarantined).reason == ("replaced" if committed else "conflicting_sop_instance")
    assert one(settings, Instance).sop_instance_uid
