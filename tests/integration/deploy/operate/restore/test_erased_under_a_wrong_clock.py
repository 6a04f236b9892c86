"""`prelim erase` of a patient whose objects a wrong clock of a listener has dated after the erasure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from sqlalchemy import select, text

from db.errors import NotPossible
from db.models import DeletedStudy, Instance, Quarantined, Study
from db.session import reading, transaction
from deploy.operate.backup import restore
from deploy.operate.erasure import erase
from dicom_listener.indexing import indexer
from tests.integration.deploy.operate.restore.place import back_up
from tests.integration.dicom_listener.objects import encode, image, receive

if TYPE_CHECKING:
    from db.settings import Settings
    from deploy.operate.backup.repository import Repository
    from deploy.operate.erasure.erase import Amount

ID, OTHER = "PAT-74017", "P-1"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "INDEXER_SECONDS", 0)


def tomorrow() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


def index(settings: Settings) -> None:
    while indexer.run_once(settings):
        pass


def erased(settings: Settings, issuer: str | None = None) -> Amount:
    quiet = Console(quiet=True)
    return erase.run(settings, quiet, ID, issuer, erase.show(settings, quiet, ID, issuer))


def patients(settings: Settings) -> list[str]:
    with reading(settings.database()) as session:
        return sorted({*session.scalars(select(Study.patient_id)), *session.scalars(select(DeletedStudy.patient_id))})


@pytest.mark.parametrize("issuer", [None, "CLINIC"])
def test_study_dated_later_is_erased_and_stays_erased_after_a_restore(
    settings: Settings, repository: Repository, empty: Settings, issuer: str | None
) -> None:
    for _ in range(2):
        receive(settings, image(PatientID=ID, IssuerOfPatientID="CLINIC"), received_at=tomorrow())
    index(settings)
    back_up(settings, repository)
    older = repository.latest()

    assert erased(settings, issuer).studies == 2
    assert patients(settings) == [OTHER]
    back_up(settings, repository)
    restore.restore(empty, repository, older)
    # After the erasure, and before the time that was wrong.
    with transaction(empty.database()) as session:
        session.execute(text("UPDATE instances SET received_at = clock_timestamp()"))
    assert restore.finish(empty, Console(quiet=True), repository) == 0
    assert patients(empty) == [OTHER]


def test_erasure_is_refused_while_the_clock_of_the_database_is_ahead(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(settings, image(PatientID=ID))
    index(settings)

    with monkeypatch.context() as patch:
        patch.setattr(erase, "MAX_SKEW", dt.timedelta(minutes=-1))
        with pytest.raises(NotPossible, match="clock is .* min ahead of this machine's"):
            erased(settings)
    assert patients(settings) == [OTHER, ID]


def test_new_examination_before_the_wrong_time_stays(settings: Settings) -> None:
    receive(settings, image(PatientID=ID), received_at=tomorrow())
    index(settings)
    erased(settings)

    receive(settings, image(PatientID=ID))
    index(settings)
    assert patients(settings) == [OTHER, ID]


def test_object_that_waits_and_is_dated_later_is_named_and_then_erased(settings: Settings) -> None:
    receive(settings, image(PatientID=ID), received_at=tomorrow())

    with pytest.raises(NotPossible, match="1 studies of the patient stay"):
        erased(settings)
    assert erased(settings).studies == 1
    assert patients(settings) == [OTHER]


def test_file_in_quarantine_that_is_dated_later_is_deleted(settings: Settings) -> None:
    quarantined(settings, ID)

    assert erased(settings).quarantined == 1
    with reading(settings.database()) as session:
        assert session.scalars(select(Quarantined)).all() == []
        assert len(session.scalars(select(Instance)).all()) == 2


def quarantined(settings: Settings, patient_id: str) -> None:
    """Let a damaged object of a patient arrive that is dated tomorrow."""
    damaged = image(PatientID=patient_id)
    value = patient_id.encode()
    receive(settings, damaged, data=encode(damaged)[:60] + b"LO" + bytes([len(value), 0]) + value + b"\0\0")
    index(settings)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE quarantine SET received_at = now() + interval '1 day'"))


def test_file_in_quarantine_of_a_patient_who_was_erased_earlier_stays(
    settings: Settings, repository: Repository, empty: Settings
) -> None:
    """It may be a new examination: it is dated later than the erasure, rightly or not."""
    receive(settings, image(PatientID=ID))
    index(settings)
    erased(settings)
    quarantined(settings, ID)

    quiet = Console(quiet=True)
    assert erase.run(settings, quiet, OTHER, None, erase.show(settings, quiet, OTHER, None)).quarantined == 0
    back_up(settings, repository)
    restore.restore(empty, repository, repository.latest())
    restore.finish(empty, quiet, repository)
    with reading(empty.database()) as session:
        assert len(session.scalars(select(Quarantined)).all()) == 1


def test_same_study_that_is_sent_again_at_the_right_time_stays(settings: Settings) -> None:
    sent = image(PatientID=ID)
    receive(settings, sent, received_at=tomorrow())
    index(settings)
    erased(settings)

    receive(settings, sent)
    index(settings)
    assert patients(settings) == [OTHER, ID]


def test_name_of_a_deleted_study_that_is_dated_later_is_forgotten(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(
            text(
                "INSERT INTO deleted_studies (study_id, study_instance_uid, patient_id, issuer_of_patient_id,"
                f" received_at) VALUES (gen_random_uuid(), '1.2.3', '{ID}', '', now() + interval '1 day')"
            )
        )
    assert erased(settings).deleted == 1
    assert patients(settings) == [OTHER]
