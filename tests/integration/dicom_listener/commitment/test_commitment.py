"""Storage commitment, with pynetdicom as the requester."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, evt
from pynetdicom.presentation import build_context
from sqlalchemy import select, text

from db.models import Commitment, Instance
from db.session import transaction
from dicom_listener.commitment import deliver, verify
from dicom_listener.dicom.uids import STORAGE_COMMITMENT_INSTANCE, STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.indexing import headers, indexer
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.scu import commit
from dicom_listener.scu.send import send_files
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz import wire
from tests.fuzz.wire import COMMAND, LAST, P_DATA_TF, Client, pdu, pdv
from tests.integration.dicom_listener.listening import file_of_pydicom, node, settings_for, slot_of_listener
from tests.integration.dicom_listener.objects import image
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Modality:
    """A modality that stores objects, requests storage commitment and receives the results."""

    def __init__(self, ae_title: str = "CT_1", transfer_syntaxes: list[str] | None = None) -> None:
        self.results: list[tuple[int, Dataset]] = []
        self.status = 0x0000
        self.ae = AE(ae_title)
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self.ae.add_supported_context(
            STORAGE_COMMITMENT_PUSH_MODEL, transfer_syntaxes or DEFAULT_TRANSFER_SYNTAXES, scu_role=True, scp_role=True
        )
        self.server: Any = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def _take(self, event: Any) -> tuple[int, None]:
        self.results.append((event.request.EventTypeID, event.event_information))
        return self.status, None

    def associate(self, port: int) -> Any:
        contexts = [build_context(CTImageStorage), build_context(STORAGE_COMMITMENT_PUSH_MODEL)]
        return self.ae.associate("127.0.0.1", port, contexts=contexts, ae_title="PRELIM", evt_handlers=self.handlers)

    def request(self, association: Any, objects: list[tuple[str, str]], transaction_uid: str | None = None) -> int:
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


def send(modality: Modality, listener: Listener, datasets: list[Dataset], *extra: tuple[str, str]) -> str:
    """Store *datasets*, request their commitment and that of *extra*, release; returns the Transaction UID."""
    transaction_uid = generate_uid()
    association = modality.associate(listener.port)
    for dataset in datasets:
        dataset.file_meta = _meta()
        assert association.send_c_store(dataset).Status == 0
    objects = [(dataset.SOPClassUID, dataset.SOPInstanceUID) for dataset in datasets]
    assert modality.request(association, [*objects, *extra], transaction_uid) == 0
    association.release()
    return transaction_uid


def _meta() -> Any:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def peers(settings: Settings) -> PeerDirectory:
    return PeerDirectory(settings.dicom.peers_file)


def deliver_once(settings: Settings) -> int:
    """Index all files and serve one request that is due; returns 0 if there is none."""
    while indexer.run_once(settings):
        pass
    with deliver.CommitmentDelivery(settings, peers(settings)) as delivery:
        served = delivery.run_once()
        # The end of the pool cancels a delivery that has not begun.
        wait([*delivery._running.values()])
        return served


def due_now(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE commitments SET due_at = now()"))


def detail(settings: Settings) -> str:
    """The cause of the last failed delivery."""
    with transaction(settings.database()) as session:
        return session.scalars(select(Commitment.detail)).one() or ""


def details(settings: Settings, ae_title: str) -> set[str | None]:
    """The causes of failed deliveries to a requester, None for requests that have not failed."""
    with transaction(settings.database()) as session:
        return set(session.scalars(select(Commitment.detail).where(Commitment.calling_ae_title == ae_title)))


def failures(result: Dataset) -> dict[str, int]:
    return {item.ReferencedSOPInstanceUID: item.FailureReason for item in result.get("FailedSOPSequence", ())}


def test_stored_objects_are_committed_on_a_new_association(
    settings: Settings, listener: Listener, modality: Modality
) -> None:
    datasets = [image(), image()]
    transaction_uid = send(modality, listener, datasets)
    assert deliver_once(settings) == 1

    [(event_type, result)] = modality.results
    assert (event_type, result.TransactionUID) == (1, transaction_uid)
    assert {item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence} == {
        dataset.SOPInstanceUID for dataset in datasets
    }
    assert "FailedSOPSequence" not in result
    assert deliver_once(settings) == 0, "delivered twice"


def test_failed_references_have_their_reason(settings: Settings, listener: Listener, modality: Modality) -> None:
    good, damaged, gone = image(), image(), image()
    unknown = generate_uid()
    send(modality, listener, [good, damaged, gone], (CTImageStorage, unknown), (MRImageStorage, good.SOPInstanceUID))
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        paths = {
            row.sop_instance_uid: settings.operations.data_dir / row.file_path
            for row in session.scalars(select(Instance))
        }
    content = paths[damaged.SOPInstanceUID].read_bytes()
    paths[damaged.SOPInstanceUID].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    paths[gone.SOPInstanceUID].unlink()
    assert deliver_once(settings) == 1

    [(event_type, result)] = modality.results
    assert event_type == 2
    assert failures(result) == {
        damaged.SOPInstanceUID: verify.PROCESSING_FAILURE,
        gone.SOPInstanceUID: verify.PROCESSING_FAILURE,
        unknown: verify.NO_SUCH_OBJECT_INSTANCE,
        good.SOPInstanceUID: verify.CLASS_INSTANCE_CONFLICT,
    }


def test_resent_object_is_committed(settings: Settings, listener: Listener, modality: Modality) -> None:
    dataset = image()
    send(modality, listener, [dataset])
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        (settings.operations.data_dir / session.scalars(select(Instance.file_path)).one()).unlink()
    assert deliver_once(settings) == 1
    send(modality, listener, [dataset])
    assert deliver_once(settings) == 1

    assert [event_type for event_type, _ in modality.results] == [2, 1]


def test_refused_result_is_sent_again(settings: Settings, listener: Listener, modality: Modality) -> None:
    modality.status = 0x0110
    send(modality, listener, [image()])
    assert deliver_once(settings) == 1
    assert deliver_once(settings) == 0, "not at once"
    modality.status = 0x0000
    with transaction(settings.database()) as session:
        assert "refused" in (session.scalars(select(Commitment.detail)).one() or "")
        session.execute(text("UPDATE commitments SET due_at = now()"))
    assert deliver_once(settings) == 1
    assert len(modality.results) == 2
    with transaction(settings.database()) as session:
        assert session.scalars(select(Commitment.delivered_at)).one() is not None


def test_request_survives_a_restart_of_the_listener(settings: Settings, listener: Listener, modality: Modality) -> None:
    send(modality, listener, [image()])
    listener.stop()
    with Listener(settings):
        assert deliver_once(settings) == 1
    assert [event_type for event_type, _ in modality.results] == [1]


def test_result_without_an_address_is_sent_on_the_association_of_the_request(
    settings: Settings, modality: Modality
) -> None:
    settings = settings.replace(peers_file=None)
    stop = threading.Event()
    # The first of two processes on one spool has no part in it.
    with Listener(settings), Listener(settings) as listener:
        association = modality.associate(listener.port)
        dataset = image(file_meta=_meta())
        assert association.send_c_store(dataset).Status == 0
        assert modality.request(association, [(dataset.SOPClassUID, dataset.SOPInstanceUID)]) == 0
        indexer.run_once(settings)
        delivering = threading.Thread(target=deliver.run, args=(settings, peers(settings), stop))
        delivering.start()
        wait_until(lambda: len(modality.results) == 1)
        wait_until(lambda: delivered(settings))
        stop.set()
        delivering.join()
        association.release()
    assert modality.results[0][0] == 1


def delivered(settings: Settings) -> bool:
    with transaction(settings.database()) as session:
        return session.scalars(select(Commitment.delivered_at)).one() is not None


def test_ended_association_without_an_address_is_recorded(settings: Settings, modality: Modality) -> None:
    settings = settings.replace(peers_file=None)
    with Listener(settings) as listener:
        send(modality, listener, [image()])
        wait_until(lambda: not list(slot_of_listener(settings).associations.iterdir()))
        assert deliver_once(settings) == 1
    with transaction(settings.database()) as session:
        assert "peers file" in (session.scalars(select(Commitment.detail)).one() or "")


def commitments_of(settings: Settings) -> list[Commitment]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(Commitment).order_by(Commitment.received_at)))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Count the files that are read back."""
    read: list[object] = []
    digest = headers.digest
    monkeypatch.setattr(headers, "digest", lambda path: read.append(path) or digest(path))
    return read


def test_result_that_cannot_be_delivered_is_given_up_without_reading_files(
    settings: Settings, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.replace(peers_file=None)
    with Listener(settings) as listener:
        send(modality, listener, [image()])
        wait_until(lambda: not list(slot_of_listener(settings).associations.iterdir()))
        read = count_reads(monkeypatch)
        assert deliver_once(settings) == 1
    due_now(settings)

    assert deliver_once(settings) == 0
    assert (len(read), [row.given_up_at is not None for row in commitments_of(settings)]) == (0, [True])


def test_repeated_delivery_does_not_read_the_files_again(
    settings: Settings, listener: Listener, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = count_reads(monkeypatch)
    modality.status = 0x0110
    send(modality, listener, [image(), image()], (CTImageStorage, unknown := generate_uid()))
    for _ in range(3):
        assert deliver_once(settings) == 1
        due_now(settings)

    assert len(read) == 2
    assert [failures(result) for _, result in modality.results] == [{unknown: verify.NO_SUCH_OBJECT_INSTANCE}] * 3


def test_delivery_that_fails_for_a_week_is_given_up(settings: Settings, listener: Listener, modality: Modality) -> None:
    modality.status = 0x0110
    send(modality, listener, [image()])
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE commitments SET received_at = now() - interval '8 days'"))
    assert deliver_once(settings) == 1

    [row] = commitments_of(settings)
    assert row.given_up_at is not None
    assert "refused" in (row.detail or "")


def test_request_that_was_never_tried_goes_first(settings: Settings, listener: Listener, modality: Modality) -> None:
    modality.status = 0x0110
    send(modality, listener, [image()])
    assert deliver_once(settings) == 1
    due_now(settings)
    send(modality, listener, [image()])
    assert deliver_once(settings) == 1

    assert [row.attempts for row in commitments_of(settings)] == [1, 1]


def test_replayed_request_is_one_row_and_one_result(settings: Settings, listener: Listener, modality: Modality) -> None:
    dataset, transaction_uid = image(file_meta=_meta()), generate_uid()
    for _ in range(2):
        association = modality.associate(listener.port)
        assert association.send_c_store(dataset).Status == 0
        assert modality.request(association, [(dataset.SOPClassUID, dataset.SOPInstanceUID)], transaction_uid) == 0
        association.release()
    assert deliver_once(settings) == 1
    assert deliver_once(settings) == 0

    assert (len(commitments_of(settings)), len(modality.results)) == (1, 1)


def test_request_indexed_before_its_objects_waits_for_them(
    settings: Settings, listener: Listener, modality: Modality
) -> None:
    send(modality, listener, [image()])
    requested = STORAGE_COMMITMENT_PUSH_MODEL.encode()
    requests = [path for path in received(Spool(settings.spool)) if requested in path.read_bytes()]
    indexer.Indexer(settings).index(requests)
    assert len(requests) == 1
    with deliver.CommitmentDelivery(settings, peers(settings)) as delivery:
        assert delivery.run_once() == 1
    assert modality.results == []
    due_now(settings)
    assert deliver_once(settings) == 1

    assert [event_type for event_type, _ in modality.results] == [1]


def test_request_received_long_before_it_is_indexed_waits_for_its_objects(
    settings: Settings, listener: Listener, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = [image(), image()]
    send(modality, listener, datasets)
    monkeypatch.setattr(indexer, "BATCH", 1)
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        assert session.scalars(select(Instance.id)).all() == [], "the request is indexed first"
        session.execute(text("UPDATE commitments SET received_at = now() - interval '1 day'"))
    with deliver.CommitmentDelivery(settings, peers(settings)) as delivery:
        delivery.run_once()
        wait([*delivery._running.values()])
        assert modality.results == []
    due_now(settings)
    assert deliver_once(settings) == 1

    assert [event_type for event_type, _ in modality.results] == [1]


def test_request_without_transaction_uid_is_refused(listener: Listener, modality: Modality) -> None:
    association = modality.associate(listener.port)
    request = Dataset()
    request.ReferencedSOPSequence = Sequence([_reference(CTImageStorage, "1.2.3")])
    status, _ = association.send_n_action(request, 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE)
    association.release()
    assert status.Status == 0x0115


def test_prelim_commit_prints_the_result(settings: Settings) -> None:
    settings = settings.replace(peers_file=None)
    file = file_of_pydicom("CT_small.dcm")
    stop = threading.Event()
    with Listener(settings) as listener:
        assert [result.status for result in send_files([file], node(listener))] == [0]
        dispatching = threading.Thread(target=index_until, args=(settings, stop))
        delivering = threading.Thread(target=deliver.run, args=(settings, peers(settings), stop))
        for thread in (dispatching, delivering):
            thread.start()
        assert commit.commit([file], node(listener, calling="CT_1")) == 0
        assert commit.commit([file_of_pydicom("MR_small.dcm")], node(listener, calling="CT_1")) == 1
        stop.set()
        for thread in (dispatching, delivering):
            thread.join()


def test_quarantined_object_is_not_committed(settings: Settings, listener: Listener, modality: Modality) -> None:
    first = image()
    send(modality, listener, [first])
    assert deliver_once(settings) == 1
    send(modality, listener, [image(SOPInstanceUID=first.SOPInstanceUID)])
    assert deliver_once(settings) == 1
    assert [event_type for event_type, _ in modality.results] == [1, 2]
    assert failures(modality.results[1][1]) == {first.SOPInstanceUID: verify.PROCESSING_FAILURE}


@pytest.mark.slow
def test_request_with_70000_references_is_served(settings: Settings, listener: Listener, modality: Modality) -> None:
    dataset = image()
    transaction_uid = send(modality, listener, [dataset])
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        request = session.scalars(select(Commitment)).one()
        request.requested = [*request.requested, *([CTImageStorage, f"1.2.{number}"] for number in range(70_000))]
    assert deliver_once(settings) == 1
    [(event_type, result)] = modality.results
    assert (event_type, result.TransactionUID, len(result.FailedSOPSequence)) == (2, transaction_uid, 70_000)
    assert [item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence] == [dataset.SOPInstanceUID]


def test_failed_request_is_repeated_later_and_does_not_block_the_next(
    settings: Settings, listener: Listener, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(modality, listener, [image()])
    original = verify.failures

    def stumble(*_: Any) -> Any:
        raise LookupError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(verify, "failures", stumble)
        assert deliver_once(settings) == 1
    assert detail(settings) == "verification failed (LookupError)"
    assert deliver_once(settings) == 0, "not at once"
    send(modality, listener, [image()])
    assert verify.failures is original
    assert deliver_once(settings) == 1
    assert [event_type for event_type, _ in modality.results] == [1]


def test_silent_requester_does_not_delay_the_others(settings: Settings, listener: Listener, modality: Modality) -> None:
    assert settings.dicom.peers_file is not None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_peer = f'[[peer]]\nae_title = "SILENT"\nhost = "127.0.0.1"\nport = {silent.getsockname()[1]}\n'
        settings.dicom.peers_file.write_text(settings.dicom.peers_file.read_text() + silent_peer)
        sleepy = Modality("SILENT")
        for _ in range(3):
            send(sleepy, listener, [image()])
        send(modality, listener, [image()])
        indexer.run_once(settings)
        with deliver.CommitmentDelivery(settings, peers(settings)) as delivery:
            wait_until(lambda: not delivery.run_once() and len(modality.results) == 1)
            assert details(settings, "SILENT") == {None}, "its timeout came first"
            # Ends the wait of the delivery.
            silent.accept()[0].close()
    sleepy.server.shutdown()


def test_requester_with_only_the_default_transfer_syntax_gets_its_result(
    settings: Settings, listener: Listener
) -> None:
    modality = Modality(transfer_syntaxes=[ImplicitVRLittleEndian])
    assert settings.dicom.peers_file is not None
    settings.dicom.peers_file.write_text(f'[[peer]]\nae_title = "CT_1"\nhost = "127.0.0.1"\nport = {modality.port}\n')
    send(modality, listener, [image()])
    assert deliver_once(settings) == 1
    assert [event_type for event_type, _ in modality.results] == [1]
    modality.server.shutdown()


def test_result_refused_on_the_association_of_the_request_is_sent_again_later(
    settings: Settings, modality: Modality
) -> None:
    settings = settings.replace(peers_file=None)
    modality.status = 0x0110
    with Listener(settings) as listener, deliver.CommitmentDelivery(settings, peers(settings)) as delivery:
        association = modality.associate(listener.port)
        assert modality.request(association, [(CTImageStorage, "1.2.3")]) == 0
        indexer.run_once(settings)
        assert delivery.run_once()
        wait_until(lambda: not delivery.run_once() and "refused" in detail(settings))
        assert len(modality.results) == 1
        modality.status = 0x0000
        due_now(settings)
        wait_until(lambda: not delivery.run_once() and delivered(settings))
        assert len(modality.results) == 2
        association.release()


def test_response_with_a_data_set_is_accepted(settings: Settings) -> None:
    """A response to another message aborts the association."""
    settings = settings.replace(peers_file=None)
    answer = {0x0100: 0x8100, 0x0120: 1, 0x0800: 1, 0x0900: 0}
    contexts = (*wire.CONTEXTS, (5, STORAGE_COMMITMENT_PUSH_MODEL, (ImplicitVRLittleEndian,)))
    with (
        Listener(settings) as listener,
        deliver.CommitmentDelivery(settings, peers(settings)) as delivery,
        Client(listener.port) as client,
    ):
        client.associate(contexts)
        assert client.request(5, n_action(), commitment_request()) == 0
        indexer.run_once(settings)
        assert delivery.run_once()
        assert [client.read()[0], client.read()[0]] == [P_DATA_TF, P_DATA_TF]
        client.send(pdu(P_DATA_TF, pdv(5, COMMAND | LAST, wire.command(answer)) + pdv(5, LAST, b"\x08\0\0\0")))
        assert client.echo() == 0
        wait_until(lambda: not delivery.run_once() and delivered(settings))
        client.send(pdu(P_DATA_TF, pdv(5, COMMAND | LAST, wire.command({**answer, 0x0120: 7, 0x0800: 0x0101}))))
        assert client.read()[0] == wire.ABORT


def n_action(sop_class: str = STORAGE_COMMITMENT_PUSH_MODEL) -> bytes:
    values: dict[int, int | str] = {0x0003: sop_class, 0x0100: 0x0130, 0x0110: 7, 0x0800: 1, 0x1008: 1}
    return wire.command({**values, 0x1001: STORAGE_COMMITMENT_INSTANCE})


def commitment_request(*, references: bool = True) -> bytes:
    pair = wire.implicit(0x00081150, CTImageStorage.encode() + b"\0") + wire.implicit(0x00081155, b"1.2.3\0")
    sequence = wire.implicit(0x00081199, wire.implicit(0xFFFEE000, pair))
    return wire.implicit(0x00081195, b"1.2.3.4\0") + (sequence if references else b"")


@pytest.mark.parametrize(
    ("context_id", "sop_class", "references", "expected"),
    [
        (5, STORAGE_COMMITMENT_PUSH_MODEL, True, 0),
        (5, STORAGE_COMMITMENT_PUSH_MODEL, False, 0x0115),
        (3, STORAGE_COMMITMENT_PUSH_MODEL, True, 0x0122),
        (3, CTImageStorage, True, 0x0122),
    ],
)
def test_invalid_commitment_request_is_refused(
    listener: Listener, context_id: int, sop_class: str, references: bool, expected: int
) -> None:
    with Client(listener.port) as client:
        client.associate(
            (*wire.CONTEXTS, (5, STORAGE_COMMITMENT_PUSH_MODEL, (ImplicitVRLittleEndian,))), calling=b"CT_1"
        )
        assert client.request(context_id, n_action(sop_class), commitment_request(references=references)) == expected


def test_unexpected_error_does_not_end_the_delivery(
    settings: Settings, listener: Listener, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter((LookupError("unforeseen"), TypeError("again")))
    run_once = deliver.CommitmentDelivery.run_once

    def fail_twice(delivery: deliver.CommitmentDelivery) -> int:
        for fault in faults:
            raise fault
        return run_once(delivery)

    monkeypatch.setattr(deliver, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deliver.CommitmentDelivery, "run_once", fail_twice)
    send(modality, listener, [image()])
    indexer.run_once(settings)
    stop = threading.Event()
    delivering = threading.Thread(target=deliver.run, args=(settings, peers(settings), stop))
    delivering.start()
    wait_until(lambda: len(modality.results) == 1)
    stop.set()
    delivering.join()


def index_until(settings: Settings, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        indexer.run_once(settings)
