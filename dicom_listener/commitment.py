"""Storage commitment reports: what is asked is verified on the disk, and told to who asked (PS3.4 J.3.3).

Delivered on a new association to where the peers file says, or on the one that asked, where the file says so or knows
no address. Tried again until it is taken.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import structlog
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pynetdicom import AE
from pynetdicom.presentation import build_context, build_role
from sqlalchemy.exc import SQLAlchemyError

from db import modality
from db.session import transaction
from dicom_listener import headers
from dicom_listener.negotiation import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
)
from dicom_listener.peers import PeerDirectory
from dicom_listener.reports import STORAGE_COMMITMENT_INSTANCE, Report, Shelf
from dicom_listener.storage import Spool

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from db.models import Commitment, Instance
    from db.settings import Settings
    from dicom_listener.peers import KnownPeer

log = structlog.get_logger()

#: Event types (PS3.4 J.3.3.1).
ALL_COMMITTED, FAILURES_EXIST = 1, 2
#: Failure Reasons (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE, NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0110, 0x0112, 0x0119
#: Seconds for a requester to take the call, and to answer it.
ANSWER_SECONDS = 15
#: Seconds between two looks for requests.
PAUSE_SECONDS = 1
#: Seconds between two looks whether the listener has delivered.
LOOK_SECONDS = 0.1


class NotDelivered(Exception):
    """Raised when a requester did not take its report; says why."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Report until *stop* is set: beside the dispatcher's loop, because a requester may take its time."""
    peers = PeerDirectory(settings.peers_file)
    while not stop.is_set():
        try:
            if not run_once(settings, peers):
                stop.wait(PAUSE_SECONDS)
        except (SQLAlchemyError, OSError) as error:
            log.warning("commitment.waiting", why=type(error).__name__)
            stop.wait(PAUSE_SECONDS)


def run_once(settings: Settings, peers: PeerDirectory) -> int:
    """Report on one request that is due; returns 1, or 0 where none is. Raises SQLAlchemyError."""
    with transaction(settings.database()) as session:
        commitment = modality.take_due_commitment(session)
        if commitment is None:
            return 0
        known = modality.instances(session, [instance for _, instance in commitment.requested])
    failures = verify(settings, commitment, known)
    peer = peers.rules().known(commitment.calling_ae_title)
    try:
        deliver(settings, peer, commitment, report(commitment, failures))
    except NotDelivered as reason:
        log.warning("commitment.not_delivered", id=str(commitment.id), attempt=commitment.attempts, why=str(reason))
        with transaction(settings.database()) as session:
            modality.commitment_failed(session, commitment.id, str(reason))
        return 1
    log.info("commitment.delivered", id=str(commitment.id), asked=len(commitment.requested), failed=len(failures))
    with transaction(settings.database()) as session:
        modality.commitment_delivered(session, commitment.id)
    return 1


def verify(settings: Settings, commitment: Commitment, known: Mapping[str, Instance]) -> dict[str, int]:
    """Look at each object's file, size and digest; returns the failure reasons by SOP Instance UID."""
    found = {
        instance: _failure(settings, known.get(instance), sop_class) for sop_class, instance in commitment.requested
    }
    return {instance: reason for instance, reason in found.items() if reason is not None}


def _failure(settings: Settings, row: Instance | None, sop_class_uid: str) -> int | None:
    if row is None:
        return NO_SUCH_OBJECT_INSTANCE
    if row.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    try:
        digest = headers.digest(settings.data_dir / row.file_path)
    except OSError:
        return PROCESSING_FAILURE
    return None if digest == headers.Digest(row.file_bytes, row.sha256) else PROCESSING_FAILURE


def report(commitment: Commitment, failures: Mapping[str, int]) -> Report:
    """The N-EVENT-REPORT for a request of which *failures* failed."""
    dataset = Dataset()
    dataset.TransactionUID = commitment.transaction_uid
    references = [
        _reference(sop_class, instance, failures.get(instance)) for sop_class, instance in commitment.requested
    ]
    committed = [reference for reference in references if "FailureReason" not in reference]
    failed = [reference for reference in references if "FailureReason" in reference]
    if committed:
        dataset.ReferencedSOPSequence = Sequence(committed)
    if failed:
        dataset.FailedSOPSequence = Sequence(failed)
    syntaxes = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    encoded = {syntax: _encode(dataset, implicit=syntax == IMPLICIT_VR_LITTLE_ENDIAN) for syntax in syntaxes}
    return Report(FAILURES_EXIST if failed else ALL_COMMITTED, encoded)


def _reference(sop_class_uid: str, sop_instance_uid: str, failure: int | None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    if failure is not None:
        reference.FailureReason = failure
    return reference


def _encode(dataset: Dataset, *, implicit: bool) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def deliver(settings: Settings, peer: KnownPeer, commitment: Commitment, report: Report) -> None:
    """Bring the report to *peer*; raises NotDelivered."""
    if peer.host is None or peer.port is None or peer.same_association:
        leave(settings, commitment, report)
    else:
        call(peer.ae_title, peer.host, peer.port, commitment, report)


def call(ae_title: str, host: str, port: int, commitment: Commitment, report: Report) -> None:
    """Deliver on a new association, in which we are the SCP although we call (PS3.4 J.3.3); raises NotDelivered."""
    ae = AE(commitment.called_ae_title or "PRELIM")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    association = ae.associate(
        host,
        port,
        contexts=[build_context(STORAGE_COMMITMENT_PUSH_MODEL, EXPLICIT_VR_LITTLE_ENDIAN)],
        ext_neg=[build_role(STORAGE_COMMITMENT_PUSH_MODEL, scp_role=True)],
        ae_title=ae_title,
    )
    if not association.is_established:
        raise NotDelivered(f"{host}:{port} does not take the call")
    try:
        dataset = dcmread(io.BytesIO(report.encoded[IMPLICIT_VR_LITTLE_ENDIAN]), force=True)
        status, _ = association.send_n_event_report(
            dataset, report.event_type, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE
        )
    except ValueError as error:
        raise NotDelivered(f"{host}:{port} does not accept storage commitment reports") from error
    finally:
        association.release()
    if "Status" not in status or status.Status != 0:
        raise NotDelivered(f"{host}:{port} refuses the report")


def leave(settings: Settings, commitment: Commitment, report: Report) -> None:
    """Deliver on the association that asked, while it is open: the listener does it. Raises NotDelivered."""
    spool = Spool(settings.spool)
    if not spool.is_open(commitment.association_id):
        raise NotDelivered("the association that asked has ended, and the peers file names no host and port")
    waiting = Shelf(spool.reports).leave(commitment.association_id, str(commitment.id), report)
    deadline = time.monotonic() + ANSWER_SECONDS
    while waiting.exists():
        if time.monotonic() > deadline or not spool.is_open(commitment.association_id):
            waiting.unlink(missing_ok=True)
            raise NotDelivered("the requester did not take the report on the association that asked")
        time.sleep(LOOK_SECONDS)
