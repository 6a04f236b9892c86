"""Rotate a password without a restart (`prelim secrets rotate`): no process loses its connection, or gets no new one.

New connections read the secret file. PostgreSQL has one password for a role, so the file has two lines while it
changes, the new URL first; Redis has two passwords meanwhile. An interrupted run is completed by the next one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

from db.environment import SERVERS, urls_of
from db.errors import PrelimError
from db.settings import server_urls

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD_BYTES = 24
SECONDS = 5
DEFAULT_USER = "default"
#: Setting of each server.
SECRETS = dict(zip(("postgres", "redis"), SERVERS, strict=True))


class NotRotated(PrelimError):
    """Raised when a password was not changed; the text has no password."""


def rotate(server: str, file: Path) -> list[Path]:
    """Give *server*, `postgres` or `redis`, a new password, in its secret *file* too; return the files written.

    Files of `make-secrets` beside it that hold the password, too, are rewritten: the server reads them at its next
    start. Raises NotRotated, OSError.
    """
    name = SECRETS[server]
    found = urls_of(name, file)
    if not found:
        raise NotRotated(f"{file}: no URL of the server: expected that of PRELIM_{name.upper()}")
    try:
        return _rotate_postgres(file, found) if server == "postgres" else _rotate_redis(file, found)
    except (psycopg.Error, RedisError) as error:
        # Its text may hold the password.
        raise NotRotated(f"the server refused ({type(error).__name__}); run the command again to complete it") from None


def _rotate_postgres(file: Path, found: list[str]) -> list[Path]:
    newest, earliest = found[0], found[-1]
    if len(found) == 1:
        newest = _with_password(earliest)
        write(file, [newest, earliest])
    elif _can_log_in(newest):  # a run that was interrupted afterwards
        earliest = newest
    if newest != earliest:
        _alter_role(earliest, _password(newest))
    write(file, [newest])
    return [file, *_beside(file, "postgres_password", r"\A.*\Z", _password(newest))]


def _can_log_in(url: str) -> bool:
    try:
        _connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    plain = url.replace("postgresql+psycopg:", "postgresql:", 1)
    return psycopg.connect(plain, connect_timeout=SECONDS, autocommit=True, target_session_attrs="read-write")


def _alter_role(url: str, password: str) -> None:
    """Change the password of the role that logs in; the server gets its verifier, so that no log can hold it."""
    with closing(_connect(url)) as connection:
        user = connection.info.user
        verifier = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), sql.Literal(verifier)))


def _rotate_redis(file: Path, found: list[str]) -> list[Path]:
    if server_urls.sentinel(found[0]) is not None:
        raise NotRotated(
            "passwords of servers behind Sentinel are changed at each of them: docs/deploy.md#rotate-secrets"
        )
    # Of a run that was interrupted, the newest is valid: it is written after the server has it.
    old = found[-1]
    newest = found[0] if len(found) > 1 else _with_password(old)
    user = unquote(urlsplit(newest).username or "") or DEFAULT_USER
    client: Any = Redis.from_url(found[0], socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
    with closing(client):
        client.execute_command("ACL", "SETUSER", user, f"#{_digest(newest)}")
        write(file, [newest, old])
        written = _beside(file, "redis_conf", r"^requirepass .*$", f"requirepass {_password(newest)}")
        if _digest(old) in client.acl_getuser(user)["passwords"]:
            client.execute_command("ACL", "SETUSER", user, f"!{_digest(old)}")
    write(file, [newest])
    return [file, *written]


def _with_password(url: str) -> str:
    """Return the URL with a new random password in place of its own."""
    head, _, tail = url.rpartition("@")
    scheme, _, login = head.partition("://")
    if not head:
        raise NotRotated("the URL has no password: give the server one, and write it to the file")
    # Letters and digits: no client library decodes or encodes them differently.
    return f"{scheme}://{login.partition(':')[0]}:{secrets.token_hex(PASSWORD_BYTES)}@{tail}"


def _password(url: str) -> str:
    return unquote(url.rpartition("@")[0].partition("://")[2].partition(":")[2])


def _digest(url: str) -> str:
    """Return the password as Redis stores it, so that no log of commands can hold it."""
    return hashlib.sha256(_password(url).encode()).hexdigest()


def _beside(file: Path, name: str, pattern: str, text: str) -> list[Path]:
    """Replace what *pattern* matches in the file of this *name* beside the secret file, if there is one."""
    path = file.with_name(name)
    if not path.exists():
        return []
    write(path, re.sub(pattern, text, path.read_text().strip(), flags=re.MULTILINE).splitlines())
    return [path]


def write(path: Path, lines: list[str]) -> None:
    """Overwrite a file in place: a container that mounts this one file sees no other that is renamed to its name.

    A reader at that moment sees the new lines, at most with the end of an old one behind them.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    with path.open("r+b", buffering=0) as file:
        file.write(content)
        file.truncate()
        os.fsync(file.fileno())
