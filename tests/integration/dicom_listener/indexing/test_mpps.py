"""Modality Performed Procedure Step: a completed step settles its study before the quiet time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset, Sequence
from pydicom.uid import generate_uid
from pynetdicom import AE
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from db.models import ProcedureStep, Study
from db.session import transaction
from db.studies import procedure_steps
from db.studies.priority import STAT
from dicom_listener import dispatch
from dicom_listener.dicom.uids import MODALITY_PERFORMED_PROCEDURE_STEP
from dicom_listener.indexing import headers, indexer
from dicom_listener.receive.listener import Listener
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz import wire
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_for(tmp_path, database_url=SecretStr(database_url), mpps=True)


@pytest.fixture
def association(settings: Settings) -> Iterator[Any]:
    ae = AE("CT_1")
    ae.add_requested_context(MODALITY_PERFORMED_PROCEDURE_STEP)
    with Listener(settings) as listener:
        association = ae.associate("127.0.0.1", listener.port)
        assert association.is_established
        yield association
        association.release()


def create(association: Any, step: str, study: str, state: str = "IN PROGRESS") -> int:
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    creation = Dataset()
    creation.ScheduledStepAttributesSequence = Sequence([scheduled])
    creation.PerformedProcedureStepStatus = state
    status, _ = association.send_n_create(creation, MODALITY_PERFORMED_PROCEDURE_STEP, step)
    return int(status.Status)


def update(association: Any, step: str, state: str, images: tuple[str, ...] = ()) -> int:
    series = Dataset()
    series.ReferencedImageSequence = Sequence([_reference(uid) for uid in images])
    modification = Dataset()
    modification.PerformedProcedureStepStatus = state
    modification.PerformedSeriesSequence = Sequence([series])
    status, _ = association.send_n_set(modification, MODALITY_PERFORMED_PROCEDURE_STEP, step)
    return int(status.Status)


def _reference(uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = uid
    return reference


@pytest.fixture
def arrived(settings: Settings) -> Dataset:
    """An image of a study, received before the listener started."""
    dataset = image()
    receive(settings, dataset)
    return dataset


def settled(settings: Settings) -> str | None:
    indexer.run_once(settings)
    dispatch.settle(settings)
    with transaction(settings.database()) as session:
        return session.scalars(select(Study.settle_reason)).one()


def test_completed_step_settles_its_study_at_once(settings: Settings, arrived: Dataset, association: Any) -> None:
    step = generate_uid()
    assert create(association, step, arrived.StudyInstanceUID) == 0
    assert settled(settings) is None
    assert update(association, step, "COMPLETED", (arrived.SOPInstanceUID,)) == 0
    assert settled(settings) == "the modality completed the procedure, with 1 image"


def test_step_is_updated_by_another_process_than_created_it(settings: Settings, arrived: Dataset) -> None:
    ae = AE("CT_1")
    ae.add_requested_context(MODALITY_PERFORMED_PROCEDURE_STEP)
    step = generate_uid()
    with Listener(settings) as first, Listener(settings) as second:
        associations = [ae.associate("127.0.0.1", listener.port) for listener in (first, second)]
        assert create(associations[0], step, arrived.StudyInstanceUID) == 0
        assert create(associations[1], step, arrived.StudyInstanceUID) == 0x0111, "it exists"
        assert update(associations[1], step, "COMPLETED", (arrived.SOPInstanceUID,)) == 0
        assert update(associations[0], step, "COMPLETED") == 0x0110, "it has ended"
        for association in associations:
            association.release()
    assert settled(settings) == "the modality completed the procedure, with 1 image"


def test_step_created_by_two_processes_at_once_is_created_once(settings: Settings) -> None:
    contexts = ((3, MODALITY_PERFORMED_PROCEDURE_STEP, (wire.EXPLICIT_VR_LITTLE_ENDIAN,)),)
    command = wire.command(
        {0x0002: MODALITY_PERFORMED_PROCEDURE_STEP, 0x0100: 0x0140, 0x0110: 1, 0x0800: 1, 0x1000: "1.2.3"}
    )
    data_set = Dataset()
    data_set.PerformedProcedureStepStatus = "IN PROGRESS"
    data_set.ScheduledStepAttributesSequence = Sequence([Dataset()])
    data_set.ScheduledStepAttributesSequence[0].StudyInstanceUID = "1.2"
    last = wire.pdu(wire.P_DATA_TF, wire.pdv(3, wire.LAST, encode(data_set)))
    with (
        Listener(settings) as first,
        Listener(settings) as second,
        wire.Client(first.port) as one,
        wire.Client(second.port) as other,
    ):
        for client in (one, other):
            client.associate(contexts).send(wire.pdu(wire.P_DATA_TF, wire.pdv(3, 3, command)))
        time.sleep(0.2)  # until both processes have found no such step
        assert [wire.status(client.ask(last)) for client in (one, other)] == [0, 0x0111]


def test_completed_step_waits_for_its_referenced_images(settings: Settings, arrived: Dataset, association: Any) -> None:
    step = generate_uid()
    create(association, step, arrived.StudyInstanceUID)
    update(association, step, "COMPLETED", (arrived.SOPInstanceUID, generate_uid()))
    assert settled(settings) is None


def test_discontinued_step_is_in_the_settle_reason(settings: Settings, arrived: Dataset, association: Any) -> None:
    step = generate_uid()
    create(association, step, arrived.StudyInstanceUID)
    assert update(association, step, "DISCONTINUED") == 0
    assert settled(settings) == "the modality discontinued the procedure, with 1 image"


def test_step_in_progress_delays_settling(settings: Settings, arrived: Dataset, association: Any) -> None:
    first, second = generate_uid(), generate_uid()
    create(association, first, arrived.StudyInstanceUID)
    create(association, second, arrived.StudyInstanceUID)
    update(association, first, "COMPLETED")
    assert settled(settings) is None


def test_invalid_transitions_of_a_step_are_refused(association: Any) -> None:
    step, study = generate_uid(), generate_uid()
    assert update(association, step, "COMPLETED") == 0x0112
    assert create(association, step, study, "COMPLETED") == 0x0106
    assert create(association, step, study) == 0
    assert create(association, step, study) == 0x0111
    assert update(association, step, "FINISHED") == 0x0106
    assert update(association, step, "COMPLETED") == 0
    assert update(association, step, "IN PROGRESS") == 0x0110


def test_step_without_a_study_is_refused(association: Any) -> None:
    creation = Dataset()
    creation.PerformedProcedureStepStatus = "IN PROGRESS"
    status, _ = association.send_n_create(creation, MODALITY_PERFORMED_PROCEDURE_STEP, generate_uid())
    assert status.Status == 0x0120


def test_mpps_is_rejected_unless_enabled(tmp_path: Path) -> None:
    ae = AE("CT_1")
    ae.add_requested_context(MODALITY_PERFORMED_PROCEDURE_STEP)
    with Listener(settings_for(tmp_path)) as listener:
        association = ae.associate("127.0.0.1", listener.port)
        assert association.accepted_contexts == []


def test_update_indexed_before_its_creation_is_applied(settings: Settings, arrived: Dataset, association: Any) -> None:
    step = generate_uid()
    assert create(association, step, arrived.StudyInstanceUID) == 0
    assert update(association, step, "COMPLETED") == 0
    # As after a step of the clock.
    by_operation = {headers.read_meta(path).reception.operation: path for path in received(Spool(settings.spool))}
    for operation in ("N-SET", "C-STORE", "N-CREATE"):
        indexer.Indexer(settings).index([by_operation[operation]])
    assert settled(settings) == "the modality completed the procedure, with 1 image"


def test_images_listed_before_the_end_of_the_step_are_kept_in_any_order(database_url: str) -> None:
    with transaction(database_url) as session:
        procedure_steps.update(session, "1.2", "COMPLETED", [])
        procedure_steps.update(session, "1.2", "", ["1.3"])
        procedure_steps.update(session, "1.2", "IN PROGRESS", ["1.4"])
        procedure_steps.begin(session, "1.2", "1.1", "IN PROGRESS")
        step = session.get_one(ProcedureStep, "1.2", populate_existing=True)
        assert (step.state, step.images, step.study_instance_uid) == ("COMPLETED", ["1.3"], "1.1")


def end_steps(settings: Settings, *studies: Dataset) -> None:
    """Record a completed step for each study."""
    with transaction(settings.database()) as session:
        for study in studies:
            step = generate_uid()
            procedure_steps.begin(session, step, study.StudyInstanceUID, "IN PROGRESS")
            procedure_steps.update(session, step, "COMPLETED", [study.SOPInstanceUID])


def states(settings: Settings) -> dict[int, list[str]]:
    """The states of the studies, by priority."""
    found: dict[int, list[str]] = {}
    with transaction(settings.database()) as session:
        for study in session.scalars(select(Study).order_by(Study.state)):
            found.setdefault(study.priority, []).append(study.state)
    return found


def test_backlog_of_ended_studies_settles_in_batches_with_urgent_ones_first(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure_steps, "BATCH", 2)
    ended = [image(), image(), image(RequestedProcedurePriority="STAT")]
    for dataset in (image(), *ended):
        receive(settings, dataset)
    indexer.run_once(settings)
    end_steps(settings, *ended)

    assert dispatch.settle(settings) == 2
    assert states(settings) == {0: ["receiving", "receiving", "settled"], STAT: ["settled"]}
    assert dispatch.settle(settings) == 1
    assert dispatch.settle(settings) == 0


def test_failure_to_settle_ended_studies_does_not_stop_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def times_out(*_: object, **__: object) -> list[Any]:
        raise OperationalError("", None, Exception("canceling statement due to statement timeout"))

    receive(settings, image())
    indexer.run_once(settings)
    monkeypatch.setattr(procedure_steps, "settle_ended", times_out)
    study = settings.study.model_copy(update={"settle_seconds": 0})
    with pytest.raises(OperationalError):
        dispatch.settle(settings.model_copy(update={"study": study}))

    assert states(settings) == {0: ["settled"]}
