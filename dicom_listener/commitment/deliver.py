"""Deliver storage commitment results to their requesters (PS3.4 J.3.3).

A result is sent on a new association to the address in the peers file, or on the association of the request if the file
requires that or has no address. It is repeated until it is accepted or given up, without reading the objects again for
a day. Requesters are served in parallel, each with one
result at a time, so that an unresponsive one does not delay the others.
"""

from __future__ import annotations

import datetime as dt
import io
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from pynetdicom import AE
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import build_context, build_role
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from structlog.contextvars import bound_contextvars

from db.logs import frames
from db.session import transaction
from db.storage.errors import Unavailable
from db.studies import commitments, lifecycle, transfer_syntaxes
from dicom_listener.commitment import verify
from dicom_listener.commitment.earlier_files import EarlierFiles
from dicom_listener.dicom import uids
from dicom_listener.dicom.commitment_result import CommitmentResult
from dicom_listener.dicom.statuses import SUCCESS
from dicom_listener.receive import tls
from dicom_listener.scu.send import exchange, take_over_responses
from dicom_listener.spool.associations import SpoolMarks
from dicom_listener.spool.commitment_outbox import CommitmentOutbox, State
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    import ssl
    import threading
    import uuid
    from typing import Self

    from db.models import Commitment
    from db.settings import Settings
    from dicom_listener.receive.peers import KnownPeer, PeerDirectory

log = structlog.get_logger()

#: Seconds for a requester to accept an association, and to respond.
RESPONSE_SECONDS = 15
#: Seconds between two queries for due requests.
POLL_SECONDS = 1
#: Requesters served in parallel.
MAX_REQUESTERS = 8


#: Age of a verdict up to which a delivery repeats it without reading the files again.
VERDICT_VALID = dt.timedelta(days=1)


class DeliveryFailed(Exception):
    """Raised when a requester did not accept its result, with the cause."""


class Undeliverable(DeliveryFailed):
    """Raised when a result can never be delivered, with the cause."""


class ObjectsWaiting(Exception):
    """Raised when requested objects are unknown and may be among the received files that are not yet indexed."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A result in the outbox of its slot; *deadline* in seconds of time.monotonic."""

    outbox: CommitmentOutbox
    key: str
    association_id: str
    deadline: float


def run(settings: Settings, peers: PeerDirectory, stop: threading.Event) -> None:
    """Deliver results until *stop* is set; in its own thread, because a requester may respond slowly."""
    with CommitmentDelivery(settings, peers) as delivery:
        while not stop.is_set():
            try:
                if not delivery.run_once():
                    stop.wait(POLL_SECONDS)
            except OperationalError:  # db.session logs an outage
                stop.wait(POLL_SECONDS)
            except (SQLAlchemyError, OSError) as error:
                log.warning("commitment.waiting", error=type(error).__name__)
                stop.wait(POLL_SECONDS)
            # The boundary of the thread: a fault of the program must not end the service.
            except Exception as error:  # noqa: BLE001
                log.error("commitment.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
                stop.wait(POLL_SECONDS)


class CommitmentDelivery:
    """Verify the requests that are due, and deliver their results."""

    def __init__(self, settings: Settings, peers: PeerDirectory) -> None:
        self._settings = settings
        self._peers = peers
        spool = Spool(settings.spool)
        self._marks = SpoolMarks(spool)
        self._earlier_files = EarlierFiles(spool)
        self._pool = ThreadPoolExecutor(MAX_REQUESTERS, thread_name_prefix="commitment")
        #: Running deliveries by AE title.
        self._running: dict[str, Future[None]] = {}
        #: Results in the outbox by commitment.
        self._handed_over: dict[uuid.UUID, HandedOver] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> int:
        """Begin to serve one request that is due; returns 0 if there is none. Raises SQLAlchemyError or OSError."""
        self._running = {title: future for title, future in self._running.items() if not future.done()}
        for commitment_id, handed_over in list(self._handed_over.items()):
            with bound_contextvars(commitment_id=str(commitment_id)):
                self._check_outbox(commitment_id, handed_over)
        if len(self._running) >= MAX_REQUESTERS:
            return 0
        # Committed first: a request that fails is due again later, and does not block the others.
        with transaction(self._settings.database()) as session:
            commitment = commitments.take_due(session, besides=self._running, waiting=self._handed_over)
        if commitment is None:
            return 0
        self._running[commitment.calling_ae_title] = self._pool.submit(self._serve, commitment)
        return 1

    def _serve(self, commitment: Commitment) -> None:
        ids = {"commitment_id": str(commitment.id), "association_id": commitment.association_id}
        with bound_contextvars(**ids):
            try:
                self._deliver(commitment)
            except DeliveryFailed as cause:
                self._record_failure(commitment.id, str(cause), last=isinstance(cause, Undeliverable))
            except (ObjectsWaiting, Unavailable):
                with transaction(self._settings.database()) as session:
                    commitments.wait(session, commitment.id)
            except SQLAlchemyError as error:
                log.warning("commitment.waiting", error=type(error).__name__)
            # The boundary of the thread: the pool drops exceptions. The text could quote a patient.
            except Exception as error:  # noqa: BLE001
                log.error("commitment.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
                self._record_failure(commitment.id, f"verification failed ({type(error).__name__})")

    def _deliver(self, commitment: Commitment) -> None:
        peer = self._peers.rules().known(commitment.calling_ae_title)
        if peer.host is not None and peer.port is not None and not peer.same_association:
            context = tls.client_context(self._settings) if peer.tls else None
            call(peer, commitment.called_ae_title, self._verdict(commitment), context)
            self._record_delivery(commitment.id)
        # Nothing is read back before there is a way to deliver the result.
        elif (slot := self._marks.slot_of(commitment.association_id)) is not None:
            self._hand_over(CommitmentOutbox(slot.commitments), commitment, self._verdict(commitment))
        else:
            raise Undeliverable("the association of the request has ended, and the peers file has no host and port")

    def _verdict(self, commitment: Commitment) -> CommitmentResult:
        """Verify the objects that the last verdict does not confirm; raises ObjectsWaiting, Unavailable."""
        requested = [(sop_class, instance) for sop_class, instance in commitment.requested]
        unconfirmed = self._unconfirmed(commitment, requested)
        if not unconfirmed:
            return CommitmentResult(commitment.transaction_uid, committed=requested, failed=[])
        uids = [instance for _, instance in unconfirmed]
        with transaction(self._settings.database()) as session:
            known = lifecycle.instances(session, uids)
            conflicting = commitments.conflicting(session, commitment.calling_ae_title, uids)
        if not known.keys() >= set(uids):
            if self._earlier_files.wait_for(commitment.id):
                raise ObjectsWaiting
            # The last ones may have been indexed since.
            with transaction(self._settings.database()) as session:
                known = lifecycle.instances(session, uids)
        failed = verify.failures(self._settings, unconfirmed, known, conflicting)
        not_committed = {(sop_class, instance) for sop_class, instance, _ in failed}
        committed = [pair for pair in requested if pair not in not_committed]
        log.info("commitment.verified", committed=len(committed), failed=len(failed))
        with transaction(self._settings.database()) as session:
            commitments.mark_verified(session, commitment.id, failed)
        return CommitmentResult(commitment.transaction_uid, committed, failed)

    def _unconfirmed(self, commitment: Commitment, requested: list[tuple[str, str]]) -> list[tuple[str, str]]:
        verified_at = commitment.verified_at
        if verified_at is None or dt.datetime.now(dt.UTC) - verified_at > VERDICT_VALID:
            return requested
        return [(sop_class, instance) for sop_class, instance, _ in commitment.failed or ()]

    def _hand_over(self, outbox: CommitmentOutbox, commitment: Commitment, result: CommitmentResult) -> None:
        """Put the result into the outbox for the association of the request."""
        key = outbox.put(commitment.association_id, str(commitment.id), result)
        deadline = time.monotonic() + RESPONSE_SECONDS
        self._handed_over[commitment.id] = HandedOver(outbox, key, commitment.association_id, deadline)

    def _check_outbox(self, commitment_id: uuid.UUID, handed_over: HandedOver) -> None:
        """End the hand-over of a result after its response, the deadline or the end of the association."""
        expired = time.monotonic() > handed_over.deadline or self._marks.slot_of(handed_over.association_id) is None
        state = handed_over.outbox.state(handed_over.key)
        if state is State.WAITING and not expired:
            return
        del self._handed_over[commitment_id]
        handed_over.outbox.remove(handed_over.key)
        if state is State.ACCEPTED:
            self._record_delivery(commitment_id)
        else:
            outcome = "refused" if state is State.REFUSED else "not answered"
            self._record_failure(commitment_id, f"result {outcome} on the association of the request")

    def _record_delivery(self, commitment_id: uuid.UUID) -> None:
        log.info("commitment.delivered")
        with transaction(self._settings.database()) as session:
            commitments.mark_delivered(session, commitment_id)

    def _record_failure(self, commitment_id: uuid.UUID, cause: str, *, last: bool = False) -> None:
        try:
            with transaction(self._settings.database()) as session:
                last = commitments.mark_failed(session, commitment_id, cause, last=last)
        except SQLAlchemyError as error:  # only the cause is lost
            log.warning("commitment.waiting", error=type(error).__name__)
        log.warning("commitment.given_up" if last else "commitment.not_delivered", cause=cause)


def call(peer: KnownPeer, calling: str, result: CommitmentResult, context: ssl.SSLContext | None) -> None:
    """Deliver the result on a new association, as requestor in the SCP role (PS3.4 J.3.3); raises DeliveryFailed."""
    address = f"{peer.host}:{peer.port}"
    ae = AE(calling or "PRELIM")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = RESPONSE_SECONDS
    # PS3.5 10.1 requires the default transfer syntax, Implicit VR Little Endian, in every proposal.
    syntaxes = [transfer_syntaxes.EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntaxes.IMPLICIT_VR_LITTLE_ENDIAN]
    association = ae.associate(
        peer.host or "",
        peer.port or 0,
        contexts=[build_context(uids.STORAGE_COMMITMENT_PUSH_MODEL, syntaxes)],
        ext_neg=[build_role(uids.STORAGE_COMMITMENT_PUSH_MODEL, scp_role=True)],
        ae_title=peer.ae_title,
        tls_args=None if context is None else (context, peer.host or ""),
    )
    if not association.is_established:
        raise DeliveryFailed(f"{address} does not accept the association")
    take_over_responses(association)
    try:
        _send(association, address, result)
    finally:
        association.release()


def _send(association: Any, address: str, result: CommitmentResult) -> None:
    context = next((context for context in association.accepted_contexts if context.as_scp), None)
    if context is None:
        raise DeliveryFailed(f"{address} does not accept storage commitment results")
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID = uids.STORAGE_COMMITMENT_PUSH_MODEL
    request.AffectedSOPInstanceUID = uids.STORAGE_COMMITMENT_INSTANCE
    request.EventTypeID = result.event_type
    request.EventInformation = io.BytesIO(result.encode(str(context.transfer_syntax[0])))
    response = exchange(association, request, context.context_id)
    if response is None or response.Status is None:
        raise DeliveryFailed(f"{address} does not respond to the result")
    if response.Status != SUCCESS:
        raise DeliveryFailed(f"{address} refused the result with status {response.Status:04X}")
