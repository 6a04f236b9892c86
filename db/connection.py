"""Connections to PostgreSQL: the login of the secret file as it is now, keepalives, limits of time."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import make_url

from db.environment import current_urls

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from db.limits import SessionLimits

#: Seconds to wait for a TCP connection: longer than a slow server takes, shorter than a user waits.
CONNECT_SECONDS = 5
#: Keepalives find a connection whose other end is lost after 5 + 3 * 2 s; the user timeout one with unconfirmed bytes.
KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
USER_TIMEOUT_MS = 10_000
#: Arguments of libpq, unless the URL has others. Of several hosts, the one that accepts writes is used.
CONNECT_ARGUMENTS: dict[str, Any] = {
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": USER_TIMEOUT_MS,
    **KEEPALIVES,
}
#: The same for the other end: without them, a server keeps the locks of a lost client for two hours.
SERVER_KEEPALIVES = {f"tcp_{name}": str(value) for name, value in KEEPALIVES.items()} | {
    "tcp_user_timeout": str(USER_TIMEOUT_MS)
}


class Connection(psycopg.Connection[Any]):
    """Connection that does not wait for a server that hangs; the server's own limits then have no effect."""

    #: Seconds to wait for an answer; 0: no limit.
    answer_seconds: float = 0

    def limit(self, limits: SessionLimits, *, local: bool) -> None:
        """Set the limits of the session, or with *local* those of the transaction."""
        self.answer_seconds = limits.transaction
        values = limits.parameters(self.info.server_version) | ({} if local else SERVER_KEEPALIVES)
        # Not as startup options: a connection pooler would refuse them.
        calls = ", ".join("set_config(%s, %s, %s)" for _ in values)
        self.execute(f"SELECT {calls}".encode(), [part for pair in values.items() for part in (*pair, local)])

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **more: Any) -> Any:
        """Wait for the server as psycopg does, but at most `answer_seconds`."""
        return super().wait(self._limited(gen) if self.answer_seconds else gen, *args, **more)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                # psycopg resumes a generator at least every 0.1 s, ready or not.
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.errors.ConnectionTimeout(f"no answer for {self.answer_seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def opened(url: str, given: Mapping[str, Any], limits: SessionLimits) -> Connection:
    """Connect to the first host of a URL that accepts writes, unless its `target_session_attrs` requires otherwise.

    *given* are the arguments of the driver for the URL. Raises psycopg.OperationalError.
    """
    # In pg_stat_activity, so that an operator finds the process that holds a lock.
    arguments = CONNECT_ARGUMENTS | {"application_name": f"prelim:{os.getpid()}"} | dict(given)
    connection = _logged_in(url, arguments)
    with closed_on_failure(connection):
        connection.limit(limits, local=False)
        connection.commit()
    return connection


@contextlib.contextmanager
def closed_on_failure(connection: Connection) -> Iterator[None]:
    """Close *connection* if the block raises: a server that shuts down refuses the first statements of a session."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _logged_in(url: str, arguments: dict[str, Any]) -> Connection:
    """Connect as the user of the first URL that can log in: the newest password may not be valid yet.

    The file may have changed between its reading and the login, so it is read once more then.
    """
    urls = current_urls(url)
    try:
        return _first_login(urls, arguments)
    except psycopg.OperationalError:
        again = current_urls(url)
        if again == urls and len(urls) == 1:
            raise
    return _first_login(again, arguments)


def _first_login(urls: Sequence[str], arguments: dict[str, Any]) -> Connection:
    newest, *earlier = urls
    login = make_url(newest)
    try:
        return Connection.connect(**arguments | {"user": login.username, "password": login.password})
    except psycopg.OperationalError:
        if not earlier:
            raise
    return _first_login(earlier, arguments)
