"""Messages between parent and child, as JSON packets of a Unix socket; a connection travels with its message.

to a child:   serve {id, address}, end {id}, seat {id, rejection, reserved}, drain, stop, beat {...}
to the parent: ready, failed {error}, took {id}, lost {id}, take {id, titles, address, echo_only}, release {id},
               beat {full, refused, used}, leaving
"""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple, Self

#: Bytes of a packet; the longest has the refusals of all processes, about 10 KB, and the senders of a minute, 12 KB.
MAX_BYTES = 64 * 1024


class Message(NamedTuple):
    """A message by its *kind*; *connection* is the socket that came with it, None if it had none or it was lost."""

    kind: str
    values: dict[str, Any]
    connection: socket.socket | None = None


class Channel:
    """One end of the messages between the parent and one child; `send` may be called in any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return two connected ends: the parent's, which never blocks, and the child's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, kind: str, connection: socket.socket | None = None, **values: Any) -> None:
        """Send a message, with a *connection*; raises OSError if the other end is gone, or its buffer is full."""
        content = json.dumps([kind, values]).encode()
        if connection is None:
            self._socket.send(content)
        else:
            socket.send_fds(self._socket, [content], [connection.fileno()])

    def receive(self) -> Message | None:
        """Return the next message; None if the other end is gone. Raises BlockingIOError if there is none."""
        try:
            content, descriptors = self._receive()
        except ConnectionResetError:
            # The other end has not read all of ours; the kernel says so once, before the messages that it has sent.
            content, descriptors = self._receive()
        if not content:
            return None
        kind, values = json.loads(content)
        return Message(kind, values, socket.socket(fileno=descriptors[0]) if descriptors else None)

    def _receive(self) -> tuple[bytes, list[int]]:
        content, descriptors, _, _ = socket.recv_fds(self._socket, MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        return content, descriptors

    def close(self) -> None:
        """Close this end: the other one receives None."""
        self._socket.close()
