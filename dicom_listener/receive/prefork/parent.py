"""Accept connections and hand each to the child with the fewest, and keep the limits of all.

This process reads no byte of a connection and has one thread: nothing a peer sends can stop it, and a child is a fork
of it. It touches the disk only at its start and on SIGHUP, to check the files that its children read.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
import uuid
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Self

import pydicom.config
import structlog

from db.container_limits import whole_processors
from db.errors import ConfigurationError
from db.operations import heartbeats
from db.release import release
from dicom_listener.receive import listener, tls
from dicom_listener.receive.counters import RefusalCounter
from dicom_listener.receive.intake.quotas import Usage
from dicom_listener.receive.listener import GRACE_SECONDS
from dicom_listener.receive.peers import Peer, PeerDirectory
from dicom_listener.receive.prefork import children
from dicom_listener.receive.prefork.child_server import BEAT_SECONDS
from dicom_listener.receive.prefork.children import Connection
from dicom_listener.receive.prefork.pool import Pool
from dicom_listener.receive.seats import Seats
from dicom_listener.receive.upper_layer.acceptor import BACKLOG
from dicom_listener.spool import file_system
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from db.settings import Settings
    from dicom_listener.receive.prefork.channel import Message
    from dicom_listener.receive.prefork.children import ChildProcess

log = structlog.get_logger()

#: Seconds between two rounds of supervision.
ROUND_SECONDS = 0.25
#: Seconds for a child to end after the grace of its associations; `prelim up` waits for 15 s in all.
END_SECONDS = 2.0
#: Connections accepted between two looks at the children.
ACCEPTED_AT_ONCE = 32
#: Processes by default, at most: the disk and the network then limit more than the processors.
MAX_DEFAULT_PROCESSES = 4
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Parent:
    """The parent of the listener's processes; `run` returns after SIGTERM or SIGINT."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        release()  # of the code that its forks run, also when its files have been replaced
        self._seats = Seats(settings.dicom)
        #: Of all children, also of those that have ended.
        self._refusals = RefusalCounter()
        self._usage = Usage()
        self._pool = Pool(processes(settings), self._start)
        #: Connections for which no child was available.
        self._waiting: deque[Connection] = deque()
        self._stopping = False
        self._round_due = self._beat_due = 0.0
        self._selector = selectors.DefaultSelector()
        self._socket = socket.socket(socket.AF_INET6 if ":" in settings.dicom.dicom_host else socket.AF_INET)
        self._signals, self._wakeup = socket.socketpair()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_descriptors()

    def run(self) -> None:
        """Accept connections until SIGTERM or SIGINT, then wait for the open associations.

        Raises OSError if the port is in use, ConfigurationError for the spool, the peers file or the certificate, or if
        no child can start.
        """
        self._check()
        dicom = self._settings.dicom
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((dicom.dicom_host, dicom.dicom_port))
        self._socket.setblocking(False)
        self._catch_signals()
        self._pool.start_missing()
        self._socket.listen(BACKLOG)
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        log.info("listener.started", host=dicom.dicom_host, port=dicom.dicom_port, processes=processes(self._settings))
        while not self._stopping:
            self._run_once()
        self._stop()

    def _check(self) -> None:
        """Raise ConfigurationError for what no child could use."""
        spool = Spool(self._settings.spool)
        spool.prepare()
        file_system.require(spool)
        self._check_files()

    def _check_files(self) -> None:
        """Raise ConfigurationError if the certificate or the peers file is invalid."""
        tls.server_context(self._settings)
        PeerDirectory(self._settings.dicom.peers_file)

    def _catch_signals(self) -> None:
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        for signum in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ, self._handle_signals)

    def _handle_signals(self) -> None:
        received = set(self._signals.recv(64))
        if received & set(STOP_SIGNALS):
            self._stopping = True
        elif signal.SIGHUP in received:
            self._replace_all()

    def _replace_all(self) -> None:
        """Replace the children, unless no new one could start: those that serve then continue unchanged."""
        try:
            self._check_files()
        except ConfigurationError as error:
            log.error("listener.processes_kept", cause=str(error))  # noqa: TRY400 - a fault of the file
            return
        log.info("listener.replacing_processes")
        self._pool.outdate_all()

    def _run_once(self) -> None:
        for key, _ in self._selector.select(ROUND_SECONDS):
            key.data()
        now = time.monotonic()
        if now >= self._round_due:
            self._round_due = now + ROUND_SECONDS
            self._pool.supervise()
            self._hand_over_waiting()
        if now >= self._beat_due:
            self._beat_due = now + BEAT_SECONDS
            state = {"open": self._seats.taken, "processes": len(self._pool.active)}
            counts = {"refusals": self._refusals.summary(), "usage": self._usage.rows()}
            self._pool.send("beat", process=heartbeats.name(), **state, **counts)

    def _start(self) -> ChildProcess:
        child = children.start(self._settings, self._close_descriptors)
        self._selector.register(child.channel, selectors.EVENT_READ, partial(self._receive, child))
        return child

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                peer, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # too many open files, or the peer has closed
                log.warning("listener.accept_failed", error=error.strerror)
                time.sleep(ROUND_SECONDS)
                return
            connection = Connection(uuid.uuid4().hex, peer, address)
            # An IPv6 socket names IPv4 peers ::ffff:10.1.2.3.
            for oldest in self._seats.connect(connection.association_id, address[0].removeprefix("::ffff:")):
                self._end_pending(oldest)
            self._hand_over(connection)

    def _end_pending(self, association_id: str) -> None:
        for child in self._pool.children:
            if association_id in child.connections:
                child.send("end", id=association_id)
        for connection in [waiting for waiting in self._waiting if waiting.association_id == association_id]:
            self._waiting.remove(connection)
            connection.socket.close()

    def _hand_over(self, connection: Connection) -> None:
        if not any(child.hand_over(connection) for child in self._pool.available()):
            self._waiting.append(connection)

    def _receive(self, child: ChildProcess) -> None:
        """Act on the messages of a child that have arrived."""
        try:
            while (message := child.channel.receive()) is not None:
                self._act(child, message)
        except BlockingIOError:
            return
        except OSError:  # as if it had ended
            pass
        self._lose(child)

    def _act(self, child: ChildProcess, message: Message) -> None:
        kind, values = message.kind, message.values
        if kind == "took":
            child.confirm(values["id"])
        elif kind == "release":
            child.connections.discard(values["id"])
            self._seats.release(values["id"])
        elif kind == "take":
            self._seat(child, values["id"], values["titles"], values["address"], echo_only=values["echo_only"])
        elif kind == "lost":
            child.full = True
            child.connections.discard(values["id"])
            self._hand_over(child.sent.pop(values["id"]))
        elif kind == "beat":
            child.beat_at, child.full = time.monotonic(), values["full"]
            self._refusals.include(values["refused"])
            self._usage.include(values["used"])
        elif kind == "leaving":  # asked to end by a signal of its own
            child.draining = True
        elif kind == "ready":
            self._pool.note_ready(child)
            self._hand_over_waiting()
        elif kind == "failed":
            self._pool.failure = values["error"]

    def _seat(
        self, child: ChildProcess, association_id: str, titles: list[str], address: str, *, echo_only: bool
    ) -> None:
        peer = Peer(association_id, titles[0], titles[1], address)
        rejection = self._seats.take(peer, echo_only=echo_only)
        values = None if rejection is None else [rejection.result, rejection.source, rejection.reason, rejection.cause]
        child.send("seat", id=association_id, rejection=values, reserved=self._seats.has_reserved(association_id))

    def _hand_over_waiting(self) -> None:
        for _ in range(len(self._waiting)):
            self._hand_over(self._waiting.popleft())

    def _lose(self, child: ChildProcess) -> None:
        """Free the seats of a child that has ended, and hand the connections that it has not taken to others."""
        self._selector.unregister(child.channel)
        self._pool.lose(child)
        for association_id in child.connections - child.sent.keys():
            self._seats.release(association_id)
        self._take_back(child)
        if not self._stopping:
            self._pool.start_missing()

    def _take_back(self, child: ChildProcess) -> None:
        """Hand the connections that a child has not taken to others."""
        child.connections -= child.sent.keys()
        self._waiting.extendleft(child.sent.values())
        child.sent.clear()
        self._hand_over_waiting()

    def _stop(self) -> None:
        """Let the children end; those that do not are killed."""
        self._selector.unregister(self._socket)
        self._socket.close()
        for child in self._pool.children:
            child.draining = True
            child.send("stop")
        deadline = time.monotonic() + GRACE_SECONDS + END_SECONDS
        while self._pool.children:
            for key, _ in self._selector.select(ROUND_SECONDS):
                key.data()
            for child in self._pool.children:
                child.flush()
                if time.monotonic() > deadline:
                    child.kill()
        self._pool.reap(wait=True)
        log.info("listener.stopped")

    def _close_descriptors(self) -> None:
        """Close all descriptors of this object; a child has inherited them, and would keep their other ends open."""
        signal.set_wakeup_fd(-1)
        waiting = [connection.socket for connection in self._waiting]
        sent = [connection.socket for child in self._pool.children for connection in child.sent.values()]
        for end in (self._socket, self._signals, self._wakeup, *waiting, *sent):
            end.close()
        for child in self._pool.children:
            child.channel.close()
        self._selector.close()


def processes(settings: Settings) -> int:
    """Return the number of processes that receive."""
    return settings.dicom.listener_processes or min(MAX_DEFAULT_PROCESSES, whole_processors())


def run(settings: Settings) -> None:
    """Run the listener until SIGTERM or SIGINT, in this process if it is to be the only one."""
    # pynetdicom makes many UIDs of each association, and pydicom would check the form of each, to log a warning.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    if processes(settings) == 1:
        listener.run(settings)
    else:
        with Parent(settings) as parent:
            parent.run()
