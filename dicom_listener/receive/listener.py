"""Receive objects in one process (`prelim listen`). Uses the spool, never PostgreSQL or Redis."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

import structlog

from db.errors import ConfigurationError
from dicom_listener import process_signals
from dicom_listener.receive import tls
from dicom_listener.receive.services import Services
from dicom_listener.receive.upper_layer import acceptor
from dicom_listener.receive.upper_layer.wire import TICK_SECONDS

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Seconds for open associations to end after a stop.
GRACE_SECONDS = 10


class Listener:
    """The DICOM listener; `start` and `stop` it, or use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._services = Services(settings)
        self._server = acceptor.create(settings, self._services)
        self._accepting = threading.Thread(target=self._server.serve_forever, args=(TICK_SECONDS,), name="dicom-accept")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port the socket is bound to."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Lock the spool and accept connections.

        Raises OSError if the port is in use, ConfigurationError if another listener has locked the spool.
        """
        try:
            self._server.take_address()
            self._services.open()
        except BaseException:
            self._server.server_close()
            raise
        self._server.prepare()
        self._server.listen()
        self._accepting.start()
        log.info("listener.started", host=self._settings.dicom.dicom_host, port=self.port)

    def read_certificate(self) -> None:
        """Use the current TLS certificate for new connections; an unusable one leaves the last one in force."""
        try:
            self._server.use(tls.server_context(self._settings))
        except ConfigurationError as error:
            log.error("certificate.invalid", error=str(error))  # noqa: TRY400 - a fault of the file
        else:
            log.info("certificate.read")

    def stop(self) -> None:
        """Stop accepting and wait GRACE_SECONDS for open associations; no effect the second time."""
        if self._server.stopping.is_set():
            return
        self._server.shutdown()
        self._services.remove_status()
        unfinished = self._server.stop(GRACE_SECONDS)
        self._services.close()
        log.info("listener.stopped", unfinished=unfinished)


def run(settings: Settings) -> None:
    """Run the listener until SIGTERM or SIGINT; SIGHUP makes it read its certificate again."""
    stop, listener = threading.Event(), Listener(settings)
    actions = dict.fromkeys(process_signals.STOP, stop.set) | {signal.SIGHUP: listener.read_certificate}
    with process_signals.handled(actions), listener:
        stop.wait()
