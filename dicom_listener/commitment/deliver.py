"""Storage commitment reports: what is asked is verified, and told to who asked (PS3.4 J.3.3).

Delivered on a new association to where the peers file says, or on the one that asked, where the file says so or knows
no address. Tried again until it is taken. Several requesters are served at a time, each with one report at a time: one
that does not answer keeps nobody else waiting.
"""

from __future__ import annotations

import io
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from pynetdicom import AE
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import build_context, build_role
from sqlalchemy.exc import SQLAlchemyError

from db.logs import frames
from db.session import transaction
from db.studies import commitments
from dicom_listener.commitment import verify
from dicom_listener.commitment.outbox import Shelf
from dicom_listener.dicom.statuses import SUCCESS
from dicom_listener.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_INSTANCE,
    STORAGE_COMMITMENT_PUSH_MODEL,
)
from dicom_listener.receive import tls
from dicom_listener.scu.send import exchange, keep_answers
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    import ssl
    import threading
    import uuid
    from pathlib import Path
    from typing import Self

    from db.models import Commitment
    from db.settings import Settings
    from dicom_listener.commitment.outbox import Report
    from dicom_listener.receive.peers import KnownPeer, PeerDirectory

log = structlog.get_logger()

#: Seconds for a requester to take the call, and to answer it.
ANSWER_SECONDS = 15
#: Seconds between two looks for requests.
PAUSE_SECONDS = 1
#: Requesters served at a time.
REQUESTERS = 8


class NotDelivered(Exception):
    """Raised when a requester did not take its report; says why."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A report that lies where the listener finds it, for the association that asked."""

    path: Path
    association_id: str
    deadline: float


def run(settings: Settings, peers: PeerDirectory, stop: threading.Event) -> None:
    """Report until *stop* is set: beside the dispatcher's loop, because a requester may take its time."""
    with Reporter(settings, peers) as reporter:
        while not stop.is_set():
            try:
                if not reporter.step():
                    stop.wait(PAUSE_SECONDS)
            except (SQLAlchemyError, OSError) as error:
                log.warning("commitment.waiting", why=type(error).__name__)
                stop.wait(PAUSE_SECONDS)
            # A fault of ours must not end the service for good.
            except Exception as error:  # noqa: BLE001
                log.error("commitment.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
                stop.wait(PAUSE_SECONDS)


class Reporter:
    """Takes the requests that are due and reports on them."""

    def __init__(self, settings: Settings, peers: PeerDirectory) -> None:
        self._settings = settings
        self._peers = peers
        self._spool = Spool(settings.spool)
        self._pool = ThreadPoolExecutor(REQUESTERS, thread_name_prefix="commitment")
        #: By AE title.
        self._busy: dict[str, Future[None]] = {}
        #: By commitment.
        self._waiting: dict[uuid.UUID, Waiting] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def step(self) -> bool:
        """Begin to report on one request that is due; returns whether there was one. Raises SQLAlchemyError."""
        self._busy = {title: future for title, future in self._busy.items() if not future.done()}
        self._look_after_waiting()
        if len(self._busy) >= REQUESTERS:
            return False
        # Committed before anything else is tried: what fails is due again later, and blocks nobody.
        with transaction(self._settings.database()) as session:
            commitment = commitments.take_due_commitment(session, besides=self._busy, waiting=self._waiting)
        if commitment is None:
            return False
        self._busy[commitment.calling_ae_title] = self._pool.submit(self._serve, commitment)
        return True

    def _serve(self, commitment: Commitment) -> None:
        try:
            self._report(commitment)
        except NotDelivered as reason:
            self._not_delivered(commitment.id, str(reason))
        except SQLAlchemyError as error:
            log.warning("commitment.waiting", why=type(error).__name__)
        # Nobody looks at what a thread of the pool raises. It is due again by itself.
        except Exception as error:  # noqa: BLE001
            log.error(  # noqa: TRY400 - its text could quote a patient
                "commitment.failed", id=str(commitment.id), error=type(error).__name__, frames=frames(error)
            )
            self._not_delivered(commitment.id, f"reporting failed ({type(error).__name__})")

    def _report(self, commitment: Commitment) -> None:
        asked = [instance for _, instance in commitment.requested]
        with transaction(self._settings.database()) as session:
            known = commitments.instances(session, asked)
            conflicting = commitments.conflicting(session, commitment.calling_ae_title, asked)
        failures = verify.verify(self._settings, commitment, known, conflicting)
        report = verify.report(commitment, failures)
        log.info("commitment.verified", id=str(commitment.id), asked=len(asked), failed=len(failures))
        peer = self._peers.rules().known(commitment.calling_ae_title)
        if peer.host is None or peer.port is None or peer.same_association:
            self._leave(commitment, report)
            return
        call(peer, commitment.called_ae_title, report, tls.client_context(self._settings) if peer.tls else None)
        self._delivered(commitment.id)

    def _leave(self, commitment: Commitment, report: Report) -> None:
        """Leave the report to the listener, which has the association that asked; raises NotDelivered."""
        if not self._spool.is_open(commitment.association_id):
            raise NotDelivered("the association that asked has ended, and the peers file names no host and port")
        path = Shelf(self._spool.reports).leave(commitment.association_id, str(commitment.id), report)
        self._waiting[commitment.id] = Waiting(path, commitment.association_id, time.monotonic() + ANSWER_SECONDS)

    def _look_after_waiting(self) -> None:
        for commitment_id, waiting in list(self._waiting.items()):
            late = time.monotonic() > waiting.deadline or not self._spool.is_open(waiting.association_id)
            taken = Shelf.was_taken(waiting.path)
            if taken is None and not late:
                continue
            del self._waiting[commitment_id]
            if taken:
                self._delivered(commitment_id)
                continue
            waiting.path.unlink(missing_ok=True)
            why = "does not take the report" if taken is None else "refuses the report"
            self._not_delivered(commitment_id, f"the requester {why} on the association that asked")

    def _delivered(self, commitment_id: uuid.UUID) -> None:
        log.info("commitment.delivered", id=str(commitment_id))
        with transaction(self._settings.database()) as session:
            commitments.commitment_delivered(session, commitment_id)

    def _not_delivered(self, commitment_id: uuid.UUID, why: str) -> None:
        log.warning("commitment.not_delivered", id=str(commitment_id), why=why)
        try:
            with transaction(self._settings.database()) as session:
                commitments.commitment_failed(session, commitment_id, why)
        except SQLAlchemyError as error:  # only the reason is lost
            log.warning("commitment.waiting", why=type(error).__name__)


def call(peer: KnownPeer, our_ae_title: str, report: Report, context: ssl.SSLContext | None) -> None:
    """Deliver on a new association, in which we are the SCP although we call (PS3.4 J.3.3); raises NotDelivered."""
    where = f"{peer.host}:{peer.port}"
    ae = AE(our_ae_title or "PRELIM")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    # PS3.5 10.1 wants the default transfer syntax, Implicit VR Little Endian, in every proposal.
    syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    association = ae.associate(
        peer.host or "",
        peer.port or 0,
        contexts=[build_context(STORAGE_COMMITMENT_PUSH_MODEL, syntaxes)],
        ext_neg=[build_role(STORAGE_COMMITMENT_PUSH_MODEL, scp_role=True)],
        ae_title=peer.ae_title,
        tls_args=None if context is None else (context, peer.host or ""),
    )
    if not association.is_established:
        raise NotDelivered(f"{where} does not take the call")
    keep_answers(association)
    try:
        _tell(association, where, report)
    finally:
        association.release()


def _tell(association: Any, where: str, report: Report) -> None:
    context = next((context for context in association.accepted_contexts if context.as_scp), None)
    if context is None:
        raise NotDelivered(f"{where} does not accept storage commitment reports")
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID = STORAGE_COMMITMENT_PUSH_MODEL
    request.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
    request.EventTypeID = report.event_type
    request.EventInformation = io.BytesIO(report.encoded[str(context.transfer_syntax[0])])
    answer = exchange(association, request, context.context_id)
    if answer is None or answer.Status is None:
        raise NotDelivered(f"{where} does not answer the report")
    if answer.Status != SUCCESS:
        raise NotDelivered(f"{where} refuses the report with {answer.Status:04X}")
