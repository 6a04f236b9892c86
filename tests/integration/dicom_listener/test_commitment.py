"""Storage commitment, with a requester made of pynetdicom."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from sqlalchemy import select, text

from db.models import Commitment, Instance
from db.session import transaction
from dicom_listener import asking, commitment, index
from dicom_listener.negotiation import STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.peers import PeerDirectory
from dicom_listener.reports import STORAGE_COMMITMENT_INSTANCE
from dicom_listener.scu import send_files
from dicom_listener.server import Listener
from tests.integration.dicom_listener.listening import file_of_pydicom, node, settings_for
from tests.integration.dicom_listener.objects import image
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


class Modality:
    """A modality that stores objects, asks for commitment and takes the report."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.answer = 0x0000
        self.ae = AE("CT_1")
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self.ae.add_supported_context(STORAGE_COMMITMENT_PUSH_MODEL, scu_role=True, scp_role=True)
        self.server: Any = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def _take(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.request.EventTypeID, event.event_information))
        return self.answer, None

    def associate(self, port: int) -> Any:
        contexts = [build_context(CTImageStorage), build_context(STORAGE_COMMITMENT_PUSH_MODEL)]
        return self.ae.associate("127.0.0.1", port, contexts=contexts, ae_title="PRELIM", evt_handlers=self.handlers)

    def ask(self, association: Any, objects: list[tuple[str, str]], transaction_uid: str | None = None) -> int:
        request = Dataset()
        request.TransactionUID = transaction_uid or generate_uid()
        request.ReferencedSOPSequence = Sequence([_reference(*pair) for pair in objects])
        status, _ = association.send_n_action(request, 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE)
        return int(status.Status)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    modality.server.shutdown()


@pytest.fixture
def settings(tmp_path: Path, database_url: str, modality: Modality) -> Settings:
    peers = tmp_path / "peers.toml"
    peers.write_text(f'[[peer]]\nae_title = "CT_1"\nhost = "127.0.0.1"\nport = {modality.port}\n')
    return settings_for(tmp_path, database_url=SecretStr(database_url), peers_file=peers)


@pytest.fixture
def listener(settings: Settings) -> Iterator[Listener]:
    with Listener(settings) as listener:
        yield listener


def send(modality: Modality, listener: Listener, datasets: list[Dataset], *extra: tuple[str, str]) -> str:
    """Store, ask for commitment of what was stored and of *extra*, and leave; returns the transaction."""
    transaction_uid = generate_uid()
    association = modality.associate(listener.port)
    for dataset in datasets:
        dataset.file_meta = _meta()
        assert association.send_c_store(dataset).Status == 0
    objects = [(dataset.SOPClassUID, dataset.SOPInstanceUID) for dataset in datasets]
    assert modality.ask(association, [*objects, *extra], transaction_uid) == 0
    association.release()
    return transaction_uid


def _meta() -> Any:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def report_once(settings: Settings) -> int:
    index.run_once(settings)
    return commitment.run_once(settings, PeerDirectory(settings.peers_file))


def failures(report: Dataset) -> dict[str, int]:
    return {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.get("FailedSOPSequence", ())}


def test_what_is_safe_is_committed_on_a_new_association(
    settings: Settings, listener: Listener, modality: Modality
) -> None:
    datasets = [image(), image()]
    transaction_uid = send(modality, listener, datasets)
    assert report_once(settings) == 1

    [(event_type, report)] = modality.reports
    assert (event_type, report.TransactionUID) == (1, transaction_uid)
    assert {item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence} == {
        dataset.SOPInstanceUID for dataset in datasets
    }
    assert "FailedSOPSequence" not in report
    assert report_once(settings) == 0, "reported twice"


def test_what_is_not_safe_is_named_with_its_reason(settings: Settings, listener: Listener, modality: Modality) -> None:
    good, damaged, gone, other = image(), image(), image(), image()
    unknown = generate_uid()
    send(modality, listener, [good, damaged, gone], (CTImageStorage, unknown), (MRImageStorage, good.SOPInstanceUID))
    index.run_once(settings)
    with transaction(settings.database()) as session:
        paths = {row.sop_instance_uid: settings.data_dir / row.file_path for row in session.scalars(select(Instance))}
    content = paths[damaged.SOPInstanceUID].read_bytes()
    paths[damaged.SOPInstanceUID].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    paths[gone.SOPInstanceUID].unlink()
    del other
    assert report_once(settings) == 1

    [(event_type, report)] = modality.reports
    assert event_type == 2
    assert failures(report) == {
        damaged.SOPInstanceUID: commitment.PROCESSING_FAILURE,
        gone.SOPInstanceUID: commitment.PROCESSING_FAILURE,
        unknown: commitment.NO_SUCH_OBJECT_INSTANCE,
        good.SOPInstanceUID: commitment.CLASS_INSTANCE_CONFLICT,
    }


def test_a_report_nobody_takes_is_tried_again(settings: Settings, listener: Listener, modality: Modality) -> None:
    modality.answer = 0x0110
    send(modality, listener, [image()])
    assert report_once(settings) == 1
    assert report_once(settings) == 0, "not at once"
    modality.answer = 0x0000
    with transaction(settings.database()) as session:
        assert "refuses" in (session.scalars(select(Commitment.detail)).one() or "")
        session.execute(text("UPDATE commitments SET due_at = now()"))
    assert report_once(settings) == 1
    assert len(modality.reports) == 2
    with transaction(settings.database()) as session:
        assert session.scalars(select(Commitment.delivered_at)).one() is not None


def test_a_request_survives_a_restart_of_the_listener(
    settings: Settings, listener: Listener, modality: Modality
) -> None:
    send(modality, listener, [image()])
    listener.stop()
    with Listener(settings):
        assert report_once(settings) == 1
    assert [event_type for event_type, _ in modality.reports] == [1]


def test_without_an_address_the_report_comes_on_the_association_that_asked(
    settings: Settings, modality: Modality
) -> None:
    settings = settings.model_copy(update={"peers_file": None})
    stop = threading.Event()
    with Listener(settings) as listener:
        association = modality.associate(listener.port)
        dataset = image(file_meta=_meta())
        assert association.send_c_store(dataset).Status == 0
        assert modality.ask(association, [(dataset.SOPClassUID, dataset.SOPInstanceUID)]) == 0
        index.run_once(settings)
        reporting = threading.Thread(target=commitment.run, args=(settings, stop))
        reporting.start()
        wait_until(lambda: len(modality.reports) == 1)
        wait_until(lambda: delivered(settings))
        stop.set()
        reporting.join()
        association.release()
    assert modality.reports[0][0] == 1


def delivered(settings: Settings) -> bool:
    with transaction(settings.database()) as session:
        return session.scalars(select(Commitment.delivered_at)).one() is not None


def test_an_association_that_ended_without_an_address_is_said(settings: Settings, modality: Modality) -> None:
    settings = settings.model_copy(update={"peers_file": None})
    with Listener(settings) as listener:
        send(modality, listener, [image()])
        wait_until(lambda: not list((settings.spool / "associations").iterdir()))
        assert report_once(settings) == 1
    with transaction(settings.database()) as session:
        assert "peers file" in (session.scalars(select(Commitment.detail)).one() or "")


def test_a_request_without_a_transaction_is_refused(listener: Listener, modality: Modality) -> None:
    association = modality.associate(listener.port)
    request = Dataset()
    request.ReferencedSOPSequence = Sequence([_reference(CTImageStorage, "1.2.3")])
    status, _ = association.send_n_action(request, 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE)
    association.release()
    assert status.Status == 0xC001


def test_prelim_commit_shows_the_report(settings: Settings) -> None:
    settings = settings.model_copy(update={"peers_file": None})
    file = file_of_pydicom("CT_small.dcm")
    stop = threading.Event()
    with Listener(settings) as listener:
        assert [result.status for result in send_files([file], node(listener))] == [0]
        dispatching = threading.Thread(target=index_until, args=(settings, stop))
        reporting = threading.Thread(target=commitment.run, args=(settings, stop))
        for thread in (dispatching, reporting):
            thread.start()
        assert asking.commit([file], node(listener, calling="CT_1")) == 0
        assert asking.commit([file_of_pydicom("MR_small.dcm")], node(listener, calling="CT_1")) == 1
        stop.set()
        for thread in (dispatching, reporting):
            thread.join()


def index_until(settings: Settings, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        index.run_once(settings)
