"""The result of a check, and the installation that is examined."""

from __future__ import annotations

import ipaddress
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.errors import ConfigurationError, PrelimError
from db.session import statements, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

    from db.settings import Settings


class Level(StrEnum):
    """Severity of a finding; `NOT_CHECKED` is neither good nor bad."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: a sentence without secrets or patient data, and the remedy of a warning or a fault."""

    level: Level
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(Level.OK, found)


def not_checked(found: str) -> Finding:
    """Return the finding of a check that could not be made; *found* is the cause."""
    return Finding(Level.NOT_CHECKED, found)


def warning(found: str, remedy: str) -> Finding:
    """Return a finding that an operator should know: Prelim works, with a risk."""
    return Finding(Level.WARNING, found, remedy)


def fault(found: str, remedy: str) -> Finding:
    """Return a finding that an operator must act on: something does not work, or data may be lost."""
    return Finding(Level.FAULT, found, remedy)


class NotChecked(PrelimError):
    """Raised by a check that cannot be made; the text is the cause."""


class DatabaseLost(PrelimError):
    """Raised once, by the check in which a database that has answered before cannot be reached any more."""


def is_unanswered(error: OperationalError) -> bool:
    """Return whether the database refuses or delays one statement, on a connection that stays open."""
    return error.statement is not None and not error.connection_invalidated


class Installation:
    """The settings of an installation, with access to its database; *root* is the root of /proc and /sys."""

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        self.settings = settings
        self.root = root
        self._failure: OperationalError | None = None
        self._has_answered = False

    def database_url(self) -> str:
        """Return the URL of PostgreSQL; raises NotChecked if the embedded one does not run."""
        try:
            return self.settings.database()
        except ConfigurationError as error:
            raise NotChecked("the embedded PostgreSQL does not run: `prelim up` starts it") from error

    def broker_url(self) -> str:
        """Return the URL of Redis; raises NotChecked if the embedded one does not run."""
        try:
            return self.settings.broker()
        except ConfigurationError as error:
            raise NotChecked("the embedded Redis does not run: `prelim up` starts it") from error

    @contextmanager
    def session(self, *, each_statement: bool = False) -> Iterator[Session]:
        """Transaction on the database, or with *each_statement* one for each of its statements.

        Raises OperationalError if the database is unreachable, without waiting for it again; DatabaseLost the first
        time, if it has answered before.
        """
        if self._failure is not None:
            raise self._failure
        try:
            with (statements if each_statement else transaction)(self.database_url()) as session:
                yield session
        except OperationalError as error:
            if not is_unanswered(error):
                self._failure = error
                if self._has_answered:
                    raise DatabaseLost from error
            raise
        self._has_answered = True

    def row(self, statement: str, **values: Any) -> Any:
        """Return the first row of a statement."""
        with self.session() as session:
            return session.execute(text(statement), values).one()

    def system_file(self, path: str) -> str | None:
        """Return the text of a file of the kernel, such as `proc/meminfo`; None if it is not here."""
        try:
            return (self.root / path).read_text()
        except OSError:
            return None

    @property
    def is_remote(self) -> bool:
        """True if the listener can be reached from other machines."""
        return self.settings.dicom.dicom_host not in {"127.0.0.1", "::1", "localhost"}

    @property
    def is_container(self) -> bool:
        """True in a container of Docker, Podman or Kubernetes."""
        marks = (".dockerenv", "run/.containerenv")
        return "KUBERNETES_SERVICE_HOST" in os.environ or any((self.root / mark).exists() for mark in marks)

    def is_near(self, host: str) -> bool:
        """Return whether the traffic to *host* stays on this machine, or in the network of its containers.

        A name without a dot is that of a service there: compose and Kubernetes give such names.
        """
        with suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host in {"", "localhost"} or host.startswith("/") or (self.is_container and "." not in host)


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its stable name, the reason why it matters, and the function."""

    name: str
    why: str
    examine: Callable[[Installation], Finding]
