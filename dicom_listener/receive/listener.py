"""Accept connections, one thread each (`prelim listen`). Uses the spool, never PostgreSQL or Redis."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import structlog

from db.logs import frames
from db.operations.listener_status import Kind
from dicom_listener.receive import status_file, tls
from dicom_listener.receive.association import Association
from dicom_listener.receive.services import Services
from dicom_listener.receive.upper_layer import TICK_SECONDS, Connection, ConnectionClosed

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Name of the threads that serve one connection each.
CONNECTION_THREAD = "dicom-association"
#: Connections queued by the kernel: a modality's burst of associations.
BACKLOG = 128
#: Pending connections, without an accepted association, of one address and of all: each costs a thread until ARTIM.
MAX_PENDING_PER_ADDRESS = 16
MAX_PENDING = 128
#: Seconds for open associations to end after a stop.
GRACE_SECONDS = 10


class Listener:
    """The DICOM listener; `start` and `stop` it, or use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._services = Services(settings)
        self._stopping = threading.Event()
        #: Error of the last attempt to write the status.
        self._status_failure: str | None = None
        #: In the order of connection.
        self._serving: dict[threading.Thread, Association] = {}
        self._tls = tls.server_context(settings)
        self._socket = socket.socket(socket.AF_INET6 if ":" in settings.dicom.dicom_host else socket.AF_INET)
        self._accepting = threading.Thread(target=self._accept, name="dicom-accept")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port the socket is bound to."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Lock the spool and accept connections.

        Raises OSError if the port is in use, ConfigurationError if another listener has locked the spool.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((self._settings.dicom.dicom_host, self._settings.dicom.dicom_port))
            self._services.open()
        except BaseException:
            self._socket.close()
            raise
        self._socket.listen(BACKLOG)
        self._socket.settimeout(TICK_SECONDS)
        self._accepting.start()
        log.info("listener.started", host=self._settings.dicom.dicom_host, port=self.port)

    def stop(self) -> None:
        """Stop accepting and wait GRACE_SECONDS for open associations; no effect the second time."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with contextlib.suppress(OSError):  # wakes `accept`; not on every system
            self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._socket.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in list(self._serving):
            thread.join(max(deadline - time.monotonic(), 0))
        self._services.close()
        log.info("listener.stopped", unfinished=sum(thread.is_alive() for thread in list(self._serving)))

    def _accept(self) -> None:
        status_due = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= status_due:
                status_due = time.monotonic() + status_file.WRITE_SECONDS
                self._write_status()
            try:
                peer, address = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:  # stopped, too many open files, or the peer has closed
                if self._stopping.is_set():
                    return
                log.warning("listener.accept_failed", error=error.strerror)
                time.sleep(TICK_SECONDS)
                continue
            try:
                # An IPv6 socket names IPv4 peers ::ffff:10.1.2.3.
                self._begin(peer, address[0].removeprefix("::ffff:"))
            except (OSError, RuntimeError) as error:  # the peer has closed, or no thread can be started
                peer.close()
                log.warning("connection.dropped", error=str(error))

    def _write_status(self) -> None:
        failure = None
        try:
            self._services.write_status()
        except OSError as error:
            failure = error.strerror
        if failure is not None and failure != self._status_failure:  # one line for each cause, not for each attempt
            log.warning("listener.status_not_written", error=failure)
        self._status_failure = failure

    def _begin(self, peer: socket.socket, address: str) -> None:
        connection = Connection(peer, self._settings.dicom.max_pdu_bytes, self._stopping.is_set)
        self._evict_oldest(address)
        association = Association(connection, address, self._services)
        thread = threading.Thread(
            target=self._serve, args=(connection, association), name=CONNECTION_THREAD, daemon=True
        )
        self._serving[thread] = association
        try:
            thread.start()
        except RuntimeError:
            del self._serving[thread]
            raise

    def _evict_oldest(self, address: str) -> None:
        """Close the oldest pending connections, of *address* and of all, if one more would exceed a limit.

        The new one is kept: a peer that only opens connections must not exclude others, nor its own C-ECHO.
        """
        # Copied in one step: the threads remove themselves.
        pending = [association for association in list(self._serving.values()) if not association.established]
        same_address = [association for association in pending if association.peer.address == address]
        for associations, limit in ((same_address, MAX_PENDING_PER_ADDRESS), (pending, MAX_PENDING)):
            for association in associations[: max(len(associations) + 1 - limit, 0)]:
                self._services.count_refusal(Kind.LIMIT, association.peer, "limit of pending connections reached")
                association.shutdown()

    def _serve(self, connection: Connection, association: Association) -> None:
        try:
            with contextlib.closing(connection):
                connection.secure(self._tls)
                association.serve()
        except ConnectionClosed as closed:
            if self._services.log_budget.allows():
                log.warning("connection.refused", address=association.peer.address, cause=str(closed))
        # The boundary of the thread: a fault of the program is logged, and the other associations continue.
        # Its text could quote the data set.
        except Exception as error:  # noqa: BLE001
            log.error(  # noqa: TRY400
                "association.failed",
                association_id=association.peer.association_id,
                error=type(error).__name__,
                frames=frames(error),
            )
        finally:
            del self._serving[threading.current_thread()]


def run(settings: Settings) -> None:
    """Run the listener until SIGTERM or SIGINT."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    with Listener(settings):
        stop.wait()
