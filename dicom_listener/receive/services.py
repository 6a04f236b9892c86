"""Admit peers, accept contexts and select request handlers, for all associations of one listener."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from db.log_budget import LogBudget
from db.operations import heartbeats
from db.release import release
from db.studies.priority import LEVELS, ROUTINE, is_urgent
from dicom_listener.receive import dimse, status_file
from dicom_listener.receive.c_store import CStoreHandler, Limits
from dicom_listener.receive.counters import RefusalCounter
from dicom_listener.receive.handlers import NullHandler, UnrecognizedHandler
from dicom_listener.receive.intake.marks import Intake
from dicom_listener.receive.intake.quotas import Quotas
from dicom_listener.receive.n_services import CommitmentRequestHandler, StepCreateHandler, StepSetHandler, StepStates
from dicom_listener.receive.open_transfers import OpenTransfers
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.receive.seats import Seats
from dicom_listener.receive.upper_layer import negotiation
from dicom_listener.spool import file_system, slots
from dicom_listener.spool.associations import AssociationMarks
from dicom_listener.spool.commitment_outbox import CommitmentOutbox
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.inbox import Inbox

if TYPE_CHECKING:
    from db.operations.listener_status import Kind
    from db.settings import Settings
    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.handlers import RequestHandler
    from dicom_listener.receive.peers import KnownPeer, Peer
    from dicom_listener.receive.prefork.parent_seats import ParentSeats
    from dicom_listener.receive.upper_layer.negotiation import Context, Rejection
    from dicom_listener.spool.associations import Transfer


log = structlog.get_logger()

STEP_HANDLERS = {dimse.N_CREATE_RQ: StepCreateHandler, dimse.N_SET_RQ: StepSetHandler}


class Services:
    """State shared by the associations of one listener: spool, peers, seats, refusals."""

    def __init__(self, settings: Settings, seats: Seats | ParentSeats | None = None) -> None:
        self._settings = settings
        self._release = release()
        self._spool = Spool(settings.spool)
        self.refusals = RefusalCounter()
        #: Limit of log lines about the ends of connections.
        self.log_budget = LogBudget("connections.not_logged")
        self._steps = StepStates(self._spool.procedure_steps)
        self._peers = PeerDirectory(settings.dicom.peers_file)
        self._status_due = 0.0
        #: Error of the last attempt to write the status.
        self._status_failure: str | None = None
        #: Limits of the connections.
        self.seats: Seats | ParentSeats = seats or Seats(settings.dicom)
        #: The last beat of the parent, if there are several processes, and the refusals of all that it has counted.
        self.parent: dict[str, Any] | None = None
        self.refused_by_all: dict[str, Any] | None = None
        #: Description of the certificate that new connections get; None without TLS.
        self.certificate: dict[str, Any] | None = None
        #: True if another process replaces this one.
        self.draining = False
        self._intake = Intake(self._spool, settings.dicom)
        self.quotas = Quotas(settings.dicom)
        #: Entries of the peers file by association: the file is not looked at with each object.
        self._known: dict[str, KnownPeer] = {}

    def open(self) -> None:
        """Own a slot of the spool and recover it; raises ConfigurationError if the spool is unfit."""
        self._spool.prepare()
        self._owned = slots.own(self._spool)
        slot = self.slot = self._owned.slot
        try:
            file_system.require(self._spool, slot.inbox)
            self.commitment_outbox = CommitmentOutbox(slot.commitments)
            self._transfers = OpenTransfers(AssociationMarks(slot))
            self._inbox = Inbox(slot)
            self._inbox.open()
        except BaseException:
            self._owned.release()
            raise
        self._transfers.start()
        self._intake.start()

    def close(self) -> None:
        """Give the slot up, after the last association."""
        self._intake.close()
        self._transfers.close()
        self._inbox.close()
        self._owned.release()

    def admit(self, peer: Peer, *, echo_only: bool, stores: bool) -> Rejection | None:
        """Count the association as open, or return the reason to reject it; *stores* if it proposes storage."""
        rules = self._peers.rules()
        rejection = rules.check(peer)
        self._known[peer.association_id] = rules.known(peer.calling_ae_title)
        if rejection is None and stores and self._intake.only_urgent and self._is_routine(peer):
            rejection = negotiation.ONLY_URGENT
        return rejection or self.seats.take(peer, echo_only=echo_only)

    def _is_routine(self, peer: Peer) -> bool:
        """Return whether the site's rules name an AE title of the association, and none of them as urgent."""
        levels = self._levels(peer)
        return bool(levels) and max(LEVELS[level] for level in levels) <= ROUTINE

    def _levels(self, peer: Peer) -> list[str]:
        """Return the priorities of its AE titles by the site's rules."""
        rules = self._settings.study.priority_rules
        titles = (peer.calling_ae_title.strip(), peer.called_ae_title.strip())
        return [rules[title] for title in titles if title in rules]

    def has_reserved_seat(self, peer: Peer) -> bool:
        """Return whether the association is open beyond the limits, for C-ECHO only."""
        return self.seats.has_reserved(peer.association_id)

    def end_transfer(self, peer: Peer, *, complete: bool) -> None:
        """Note the end of an association's transfer, if it has one; not *complete* if it broke off."""
        self._known.pop(peer.association_id, None)
        self._transfers.end(peer.association_id, complete=complete)

    def handler(self, command: Command, context: Context, peer: Peer) -> RequestHandler:
        """Return the handler of a request."""
        if command.field == dimse.C_STORE_RQ:
            limits = Limits(self._intake, self.quotas, self._known[peer.association_id])
            return CStoreHandler(command, context, peer, self._inbox, self._transfer(peer), limits)
        if command.field == dimse.C_ECHO_RQ:
            return NullHandler()
        if command.field == dimse.N_ACTION_RQ:
            self._transfer(peer)  # the dispatcher returns the result on an association that is marked as open
            return CommitmentRequestHandler(command, context, peer, self._inbox)
        if command.field in STEP_HANDLERS and self._settings.dicom.mpps:
            return STEP_HANDLERS[command.field](command, context, peer, self._inbox, self._steps)
        return UnrecognizedHandler()

    def _transfer(self, peer: Peer) -> Transfer:
        return self._transfers.of(peer.association_id, urgent=any(map(is_urgent, self._levels(peer))))

    def count_refusal(self, kind: Kind, peer: Peer, cause: str) -> None:
        """Count a rejected association or a refused request."""
        self.refusals.add(kind, peer.calling_ae_title or peer.address, cause)

    def write_status(self) -> None:
        """Pass on process, associations and refusals to the dispatcher, if WRITE_SECONDS have passed."""
        if time.monotonic() < self._status_due:
            return
        self._status_due = time.monotonic() + status_file.WRITE_SECONDS
        found = {
            "process": heartbeats.name(),
            "release": self._release,
            "open": self.seats.taken,
            "limit": self._settings.dicom.max_associations,
            "parent": self.parent,
            "draining": self.draining,
            "intake": self._intake.info,
            "certificate": self.certificate,
            **(self.refusals.summary() if self.refused_by_all is None else self.refused_by_all),
        }
        failure = None
        try:
            status_file.write(self.slot.status, found)
        except OSError as error:
            failure = error.strerror
        if failure is not None and failure != self._status_failure:  # one line for each cause, not for each attempt
            log.warning("listener.status_not_written", error=failure)
        self._status_failure = failure

    def remove_status(self) -> None:
        """Remove the status: this process accepts no more connections."""
        try:
            self.slot.status.unlink(missing_ok=True)
        except OSError as error:  # it becomes stale
            log.warning("listener.status_not_removed", error=error.strerror)
