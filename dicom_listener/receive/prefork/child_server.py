"""Serve the connections that the parent hands over, until it stops this process or ends."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from dicom_listener.receive.listener import GRACE_SECONDS
from dicom_listener.receive.prefork.parent_seats import ParentSeats
from dicom_listener.receive.services import Services
from dicom_listener.receive.upper_layer import acceptor

if TYPE_CHECKING:
    from db.settings import Settings
    from dicom_listener.receive.prefork.channel import Channel, Message

log = structlog.get_logger()

#: Seconds between two beats of the child and of the parent.
BEAT_SECONDS = 1.0
#: Part of the descriptors in use from which the parent hands over no more connections: each needs one for its object.
FULL_SHARE = 0.9
#: Seconds without a beat of the parent from which it accepts no connections.
SILENT_SECONDS = 5.0


class Child:
    """Serve connections of *channel*; `run` returns at the end."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._channel = channel
        self._seats = ParentSeats(channel)
        self._services = Services(settings, self._seats)
        self._services.refused_by_all = {}
        self._acceptor = acceptor.create(settings, self._services)
        self._stopped = False
        #: This process alone was asked to end.
        self._leaving = False
        #: Time of the parent's last beat, of time.monotonic.
        self._beat_at = -math.inf
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve connections until the parent stops or ends, or the last one of a drained child has ended."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._leave)
        self._services.open()
        self._acceptor.prepare()
        # A disk that hangs must not stop the beats.
        status = threading.Thread(target=self._write_status, name="dicom-status", daemon=True)
        status.start()
        try:
            with contextlib.suppress(OSError):  # the parent is gone
                self._channel.send("ready")
                self._serve()
        finally:
            self._ended.set()
            unfinished = self._acceptor.stop(GRACE_SECONDS)
            with contextlib.suppress(OSError):  # the parent is gone
                self._channel.send("beat", full=is_full(), **self._counts())
            status.join()
            self._services.close()
            log.info("listener.process_stopped", unfinished=unfinished)

    def _leave(self, *_: object) -> None:
        self._leaving = True

    def _serve(self) -> None:
        beat_due, ends_at = 0.0, math.inf
        while (
            not self._stopped
            and time.monotonic() < ends_at
            and not (self._services.draining and not self._acceptor.associations)
        ):
            if self._leaving and ends_at == math.inf:
                self._channel.send("leaving")
                self._services.draining, ends_at = True, time.monotonic() + GRACE_SECONDS
            if time.monotonic() >= beat_due:
                beat_due = time.monotonic() + BEAT_SECONDS
                self._channel.send("beat", full=is_full(), **self._counts())
            if select.select([self._channel], [], [], BEAT_SECONDS / 4)[0]:
                message = self._channel.receive()
                if message is None:
                    log.error("listener.parent_lost")
                    return
                self._act(message)

    def _counts(self) -> dict[str, Any]:
        """Return what the parent counts for all processes."""
        return {"refused": self._services.refusals.take(), "used": self._services.quotas.take()}

    def _act(self, message: Message) -> None:
        kind, values = message.kind, message.values
        if kind == "serve":
            self._take_over(message)
        elif kind == "end":
            self._acceptor.end(values["id"])
        elif kind == "seat":
            self._seats.answer(values)
        elif kind == "drain":
            self._services.draining = True
        elif kind == "stop":
            self._stopped = True
        elif kind == "beat":
            self._services.refused_by_all = values.pop("refusals")
            self._services.quotas.replace(values.pop("usage"))
            self._services.parent, self._beat_at = values, time.monotonic()

    def _take_over(self, message: Message) -> None:
        association_id, connection = message.values["id"], message.connection
        if connection is None:  # no descriptor was free
            self._channel.send("lost", id=association_id)
            return
        self._channel.send("took", id=association_id)
        try:
            self._acceptor.serve(connection, tuple(message.values["address"]), association_id)
        # The peer has closed, no thread can be started, or no memory is left for its buffer: the others continue.
        except (OSError, RuntimeError, MemoryError) as error:
            connection.close()
            self._seats.release(association_id)
            log.warning("connection.dropped", error=acceptor.reason(error))

    def _write_status(self) -> None:
        """Write the status regularly until the end, but let it become stale while the parent is silent."""
        while not self._ended.wait(BEAT_SECONDS / 2):
            if time.monotonic() - self._beat_at < SILENT_SECONDS:
                self._services.write_status()
        self._services.remove_status()


def is_full() -> bool:
    """Return whether too few descriptors are free to serve more connections."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in os.scandir("/proc/self/fd"))
    except OSError as error:
        return error.errno in {errno.EMFILE, errno.ENFILE}
    return used > FULL_SHARE * limit
