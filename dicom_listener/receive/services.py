"""What the listener offers: whom it admits, what it accepts, and who answers which request."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import structlog

from dicom_listener.commitment.outbox import Shelf
from dicom_listener.dicom.statuses import Refusal, UnrecognizedOperation
from dicom_listener.receive import dimse, negotiation
from dicom_listener.receive.association import Ignoring
from dicom_listener.receive.c_store import Store
from dicom_listener.receive.counters import Tally
from dicom_listener.receive.n_services import CommitmentRequest, StepCreation, StepStates, StepUpdate
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.inbox import Inbox

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.commitment.outbox import Report
    from dicom_listener.receive.association import Answerer
    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.negotiation import Context, Proposal, Rejection
    from dicom_listener.receive.peers import Peer


log = structlog.get_logger()

STEP_REQUESTS = {dimse.N_CREATE_RQ: StepCreation, dimse.N_SET_RQ: StepUpdate}


class Echo(Ignoring):
    """Answers C-ECHO (PS3.4 A): always with success. It has no data set; one that comes all the same is ignored."""


class Unrecognized(Ignoring):
    """Answers what we do not serve."""

    refusal: Refusal | None = UnrecognizedOperation("this operation is not supported")

    def finish(self) -> int:
        """Unrecognized operation."""
        return UnrecognizedOperation.status


class Services:
    """The services of one listener, shared by its associations."""

    def __init__(self, settings: Settings) -> None:
        self.spool = Spool(settings.spool)
        self._settings = settings
        self._inbox = Inbox(self.spool)
        self._contexts = negotiation.supported(mpps=settings.dicom.mpps)
        self._tally = Tally(self.spool.refusals)
        self._shelf = Shelf(self.spool.reports)
        self._steps = StepStates(self.spool.procedure_steps)
        self._peers = PeerDirectory(settings.dicom.peers_file)
        self._lock = threading.Lock()
        self._open: set[str] = set()
        #: Those of which the dispatcher knows.
        self._marked: set[str] = set()

    def open(self) -> None:
        """Take possession of the spool; raises ConfigurationError where another listener has it."""
        self.spool.prepare()
        complete, unfinished = self._inbox.open()
        self.spool.forget_associations()
        log.info("listener.opened", recovered=complete, unfinished_removed=unfinished)

    def close(self) -> None:
        """Give the spool free, after the last association."""
        with contextlib.suppress(OSError):
            self._tally.write()
        self._inbox.close()

    def admit(self, peer: Peer) -> Rejection | None:
        """Count the association in, or say why not."""
        rejection = self._peers.rules().check(peer)
        if rejection is not None:
            return rejection
        with self._lock:
            if len(self._open) >= self._settings.dicom.max_associations:
                return negotiation.LOCAL_LIMIT_EXCEEDED
            self._open.add(peer.association_id)
        return None

    def accept(self, proposal: Proposal) -> tuple[bytes, dict[int, Context]]:
        """The content of the A-ASSOCIATE-AC, and the accepted contexts."""
        return proposal.accept(self._contexts, self._settings.dicom.max_pdu_bytes)

    def begin(self, command: Command, context: Context, peer: Peer) -> Answerer:
        """Who takes the data set of this request and answers it."""
        if command.field == dimse.C_STORE_RQ:
            self._mark_open(peer)
            return Store(command, context, peer, self._inbox)
        if command.field == dimse.C_ECHO_RQ:
            return Echo()
        if command.field == dimse.N_ACTION_RQ:
            self._mark_open(peer)
            return CommitmentRequest(command, context, peer, self._inbox)
        if command.field in STEP_REQUESTS and self._settings.dicom.mpps:
            return STEP_REQUESTS[command.field](command, context, peer, self._inbox, self._steps)
        return Unrecognized()

    def _mark_open(self, peer: Peer) -> None:
        if peer.association_id not in self._marked:
            self._marked.add(peer.association_id)
            # A disk that cannot hold an empty file refuses the object itself, with the right status.
            with contextlib.suppress(OSError):
                self.spool.mark_open(peer.association_id)

    def refused(self, peer: Peer, why: str) -> None:
        """Count a refused association or request."""
        self._tally.add(peer.calling_ae_title, why)

    def write_tally(self) -> None:
        """Leave the counts of refusals where the dispatcher finds them; raises OSError."""
        self._tally.write()

    def report_for(self, peer: Peer) -> tuple[Path, Report] | None:
        """A commitment report that is to go out on this peer's association."""
        return self._shelf.find(peer.association_id)

    def ended(self, peer: Peer) -> None:
        """Count the association out."""
        with self._lock:
            self._open.discard(peer.association_id)
        if peer.association_id in self._marked:
            self._marked.discard(peer.association_id)
            try:
                self.spool.mark_closed(peer.association_id)
            except OSError as error:  # its studies settle by the cap, or at the next start
                log.warning("association.marker_not_removed", association=peer.association_id, why=error.strerror)
