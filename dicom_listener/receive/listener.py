"""`prelim listen`: accepts connections and gives each its thread. Touches the spool, never Postgres or Redis."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import structlog

from dicom_listener.receive import tls
from dicom_listener.receive.association import Association
from dicom_listener.receive.services import Services
from dicom_listener.receive.upper_layer import TICK_SECONDS, Connection, PeerGone

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Connections the kernel may hold for us: a modality's burst of associations.
BACKLOG = 128
#: Connections that have not (yet) associated: of one address, and of all. Each costs a thread for ARTIM's time.
SILENT_PER_ADDRESS = 16
SILENT = 128
#: Seconds that open associations may take to end after a stop was asked for.
GRACE_SECONDS = 10


class Listener:
    """The DICOM listener: `start`, then `stop`; or `with`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._services = Services(settings)
        self._stopping = threading.Event()
        #: In the order of their connection: what `_make_room` cuts first.
        self._serving: dict[threading.Thread, tuple[str, Connection]] = {}
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
        """The TCP port it is bound to."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Accept connections, once the spool is ours.

        Raises OSError where the port is taken, ConfigurationError where another listener has the spool.
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
        """Accept no more, and let the associations that are busy finish within the grace; twice is once."""
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
        log.info("listener.stopped", cut_off=sum(thread.is_alive() for thread in list(self._serving)))

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                peer, address = self._socket.accept()
            except TimeoutError:
                self._write_tally()
                continue
            except OSError as error:  # stopped, too many open files, or a peer already gone
                if self._stopping.is_set():
                    return
                log.warning("listener.accept_failed", why=error.strerror)
                time.sleep(TICK_SECONDS)
                continue
            try:
                # An IPv6 socket names IPv4 peers ::ffff:10.1.2.3.
                self._begin(peer, address[0].removeprefix("::ffff:"))
            except (OSError, RuntimeError) as error:  # the peer is gone, or there is no thread to be had
                peer.close()
                log.warning("connection.not_served", why=str(error))

    def _write_tally(self) -> None:
        try:
            self._services.write_tally()
        except OSError as error:
            log.warning("listener.tally_not_written", why=error.strerror)

    def _begin(self, peer: socket.socket, address: str) -> None:
        connection = Connection(peer, self._settings.dicom.max_pdu_bytes, self._stopping.is_set)
        self._make_room(address)
        thread = threading.Thread(target=self._serve, args=(connection, address), name="dicom-association", daemon=True)
        self._serving[thread] = address, connection
        try:
            thread.start()
        except RuntimeError:
            del self._serving[thread]
            raise

    def _make_room(self, address: str) -> None:
        """Cut the oldest connections that have not associated, where there are too many.

        The newcomer is let in: who only opens connections must not shut out a neighbour, nor a C-ECHO of his own.
        """
        # Copied in one step: the threads leave the table on their own.
        silent = [
            (where, connection) for where, connection in list(self._serving.values()) if not connection.associated
        ]
        from_there = [connection for where, connection in silent if where == address]
        for connections, most in ((from_there, SILENT_PER_ADDRESS), ([c for _, c in silent], SILENT)):
            for connection in connections[: max(len(connections) + 1 - most, 0)]:
                connection.cut()

    def _serve(self, connection: Connection, address: str) -> None:
        try:
            with contextlib.closing(connection):
                connection.secure(self._tls)
                Association(connection, address, self._services).serve()
        except PeerGone as gone:
            log.warning("connection.refused", address=address, why=str(gone))
        # A fault of ours must not go unseen in a thread; the others go on.
        except Exception:
            log.exception("association.failed", address=address)
        finally:
            del self._serving[threading.current_thread()]


def run(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    with Listener(settings):
        stop.wait()
