"""The children as the parent sees them: start one, hand it connections, and note its beats."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from db.errors import PrelimError
from db.logs import frames
from dicom_listener.receive.prefork.channel import Channel
from dicom_listener.receive.prefork.child_server import Child

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from db.settings import Settings

log = structlog.get_logger()

#: Seconds without a beat after which a child gets no new connections, and after which it is killed.
SILENT_SECONDS = 3.0
FROZEN_SECONDS = 10.0
#: Seconds for a child to be ready: recovery reads incomplete files, which may be large.
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Connection:
    """An accepted connection that no child has taken yet."""

    association_id: str
    socket: socket.socket
    address: tuple[Any, ...]


@dataclass(eq=False)
class ChildProcess:
    """A child; times are those of time.monotonic."""

    pid: int
    channel: Channel
    started_at: float = field(default_factory=time.monotonic)
    beat_at: float = field(default_factory=time.monotonic)
    ready: bool = False
    #: It serves its connections to their end, and gets no new ones.
    draining: bool = False
    #: It has too few free descriptors.
    full: bool = False
    #: Time of the connection handed over last.
    given_at: float = 0.0
    #: Ids of its connections.
    connections: set[str] = field(default_factory=set)
    #: Connections sent to it, until it confirms that it has them.
    sent: dict[str, Connection] = field(default_factory=dict)
    #: Messages for which its buffer had no space.
    unsent: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)

    def is_available(self) -> bool:
        """Return whether it can get a connection."""
        silent = time.monotonic() - self.beat_at > SILENT_SECONDS
        return self.ready and not (self.draining or self.full or self.unsent or silent)

    def hand_over(self, connection: Connection) -> bool:
        """Send a connection to it; returns False if that is not possible now."""
        association_id = connection.association_id
        try:
            self.channel.send("serve", connection.socket, id=association_id, address=connection.address)
        except OSError:
            return False
        self.given_at = time.monotonic()
        self.sent[association_id] = connection
        self.connections.add(association_id)
        return True

    def confirm(self, association_id: str) -> None:
        """Note that it has a connection: this process needs it no longer."""
        connection = self.sent.pop(association_id, None)
        if connection is not None:
            connection.socket.close()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message now, or when its buffer has space again."""
        self.unsent.append((kind, values))
        self.flush()

    def flush(self) -> None:
        """Send the messages that wait, as far as its buffer has space."""
        with contextlib.suppress(OSError):  # no space, or it has ended, which its channel tells
            while self.unsent:
                kind, values = self.unsent[0]
                self.channel.send(kind, **values)
                self.unsent.popleft()

    def has_failed(self) -> bool:
        """Return whether it must be killed: it does not start, or gives no beats."""
        now = time.monotonic()
        return now - self.beat_at > FROZEN_SECONDS if self.ready else now - self.started_at > START_SECONDS

    def kill(self) -> None:
        """End it at once; its connections break off."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def start(settings: Settings, close_inherited: Callable[[], None]) -> ChildProcess:
    """Start a child by fork: this process has one thread, and a child is ready within milliseconds.

    *close_inherited* closes the descriptors of this process in the child.
    """
    ours, theirs = Channel.pair()
    sys.stdout.flush()  # else the child would write it once more
    pid = os.fork()
    if pid:
        theirs.close()
        return ChildProcess(pid, ours)
    status = 1
    try:
        ours.close()
        close_inherited()
        status = _run(settings, theirs)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(settings: Settings, channel: Channel) -> int:
    """Run the child and return its exit status."""
    try:
        Child(settings, channel).run()
    except (PrelimError, OSError) as error:
        log.error("listener.process_failed", error=str(error))  # noqa: TRY400 - an expected error
        with contextlib.suppress(OSError):  # the parent is gone
            channel.send("failed", error=str(error))
        return 1
    # The boundary of the process: a fault of the program is logged. Its text could quote a data set.
    except Exception as error:  # noqa: BLE001
        log.error("listener.process_failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
        return 1
    return 0
