"""Status of the listener, as the dispatcher's heartbeat passes it on, and its alarms.

The listener runs without PostgreSQL: it writes its status to a file of the spool, which the dispatcher reads
(dicom_listener.receive.status_file). The `info` of its heartbeat row has the fields of ListenerStatus.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NamedTuple

from db.operations.heartbeats import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.models import Process


class Level(IntEnum):
    """Levels of reception of a listener (dicom_listener.receive.intake), the fewer objects the higher."""

    OPEN = 0
    #: Everything; disk or backlog are near the mark of the next level.
    NEAR = 1
    #: Routine objects are refused for a time.
    ONLY_URGENT = 2
    #: The reserve of the disk is reached: nothing is received.
    CLOSED = 3


class Kind(StrEnum):
    """Kinds of refusals."""

    #: Association above a limit of their number.
    LIMIT = "limit"
    #: Association rejected for another reason: an unknown AE title, an address.
    ASSOCIATION = "association"
    #: C-STORE request.
    OBJECT = "object"
    #: Another request.
    REQUEST = "request"


class Refusals(NamedTuple):
    """Refusals for one cause since the start of the listener."""

    kind: str
    cause: str
    times: int
    #: Seconds since the last one.
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class ServedCertificate:
    """Certificate that a process of a listener has loaded, which its files may not be any more."""

    #: Time of day at which the first certificate of its chain to end does so; None if it cannot be read.
    ends: float | None
    #: SHA-256 of its chain, and of the authorities whose peers it admits.
    fingerprint: str
    authorities: str


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """Status of one process of a listener: its open associations, the limit of all, and the refusals by cause."""

    process: str
    open: int
    limit: int
    refusals: list[Refusals]
    #: The process that accepts for it and others of its machine; itself if it is the only one.
    parent: str
    #: True if it serves its associations to their end, and another process has taken its place.
    draining: bool
    #: What it receives, and why not everything.
    level: Level = Level.OPEN
    cause: str = ""
    #: None without TLS, and of an earlier release.
    certificate: ServedCertificate | None = None


#: Before the end of a certificate, at which it becomes an alarm; alert and `prelim doctor` begin earlier.
CERTIFICATE_SECONDS = 14 * 86_400.0
RELIEF = "free space (`prelim retain`), enlarge the disk, or see why the dispatcher does not index; it ends by itself"
ALARMS = {
    Kind.LIMIT: (
        "associations_exhausted",
        "raise PRELIM_MAX_ASSOCIATIONS, ..._PER_ADDRESS or ..._PER_AE_TITLE, or stop the sender that opens too many",
    ),
    Kind.ASSOCIATION: ("associations_rejected", "complete PRELIM_PEERS_FILE, or correct the sender's configuration"),
    Kind.OBJECT: ("objects_refused", "see docs/dicom.md for the remedy of each cause; the images are not in Prelim"),
}


def current(alive: Sequence[Process]) -> list[ListenerStatus]:
    """Return the status of each listener among the processes that are alive."""
    return [_status(process) for process in alive if process.role == Role.LISTENER]


def _status(process: Process) -> ListenerStatus:
    info = process.info
    refusals = [Refusals(*row) for row in info.get("causes", ())]
    draining = info.get("draining", False)
    counts = info.get("open", 0), info.get("limit", 0)
    served = info.get("certificate")
    # A later release may pass on more.
    certificate = served and ServedCertificate(*(served[name] for name in ("ends", "fingerprint", "authorities")))
    level, cause = _level(info.get("intake"))
    return ListenerStatus(process.name, *counts, refusals, _parent(process), draining, level, cause, certificate)


def _level(intake: dict[str, str] | None) -> tuple[Level, str]:
    """Return level and cause in a heartbeat; a level of another release counts as open."""
    names = {level.name.lower(): level for level in Level}
    return (names.get(intake["level"], Level.OPEN), intake["cause"]) if intake else (Level.OPEN, "")


def served(found: Sequence[ListenerStatus]) -> list[ServedCertificate]:
    """Return the certificates that new connections get."""
    return [each.certificate for each in found if each.certificate is not None and not each.draining]


def certificate_end(found: Sequence[ListenerStatus]) -> float | None:
    """Return the time of day at which the first certificate of all listeners ends; None without one."""
    return min((each.ends for each in served(found) if each.ends is not None), default=None)


def certificate_alarm(found: Sequence[ListenerStatus]) -> tuple[str, str] | None:
    """Return code and detail of the alarm for a certificate that ends soon."""
    ends = certificate_end(found)
    if ends is None or ends - time.time() > CERTIFICATE_SECONDS:
        return None
    days = (ends - time.time()) / 86400
    when = f"ends in {days:.0f} days" if days > 0 else "has ended, and modalities refuse it"
    remedy = "order a new one, replace the files, and send SIGHUP to each `prelim listen`"
    return "certificate_ends", f"the certificate that a listener serves {when}: {remedy}"


def intake_alarm(found: Sequence[ListenerStatus]) -> tuple[str, str] | None:
    """Return code and detail of the alarm for a listener that does not receive everything, or soon will not.

    A full disk has an alarm of its own.
    """
    worst = max(found, key=lambda status: status.level, default=None)
    if worst is None or worst.level in {Level.OPEN, Level.CLOSED}:
        return None
    if worst.level is Level.ONLY_URGENT:
        return "only_urgent_received", f"{worst.cause}: routine objects are refused, urgent ones are received; {RELIEF}"
    return "intake_near_limit", f"{worst.cause}: routine objects will soon be refused; {RELIEF}"


def _parent(process: Process) -> str:
    return str((process.info.get("parent") or {}).get("process", process.name))


def totals(found: Sequence[ListenerStatus]) -> dict[str, tuple[int, int, int]]:
    """Return open associations, their limit and the processes of each listener, by its parent."""
    parents = {status.parent: status.limit for status in found}
    each = {parent: [status.open for status in found if status.parent == parent] for parent in parents}
    return {parent: (sum(each[parent]), limit, len(each[parent])) for parent, limit in parents.items()}


def refusals(found: Sequence[ListenerStatus]) -> list[Refusals]:
    """Return the refusals by cause of each listener; each of its processes reports those of all, some a bit later."""
    latest: dict[tuple[str, str, str], Refusals] = {}
    for status in found:
        for each in status.refusals:
            key = status.parent, each.kind, each.cause
            latest[key] = max(each, latest.get(key, each), key=lambda refusals: refusals.times)
    return list(latest.values())


def refusals_by_sender(alive: Sequence[Process]) -> list[tuple[str, str, int]]:
    """Return calling AE title, cause and count of the refusals of each listener, the most frequent first."""
    latest: dict[tuple[str, str, str], int] = {}
    for process in alive:
        for sender, cause, times in process.info.get("refused", ()):
            key = _parent(process), sender, cause
            latest[key] = max(times, latest.get(key, 0))
    found = [(sender, cause, times) for (_, sender, cause), times in latest.items()]
    return sorted(found, key=lambda refused: -refused[2])


def alarms(found: Sequence[ListenerStatus], within_seconds: float) -> Iterator[tuple[str, str]]:
    """Yield code and detail of the alarms for refusals of the last *within_seconds*, one for each kind."""
    for kind, (code, remedy) in ALARMS.items():
        recent = [each for each in refusals(found) if each.kind == kind and each.seconds_ago < within_seconds]
        if recent:
            latest = min(recent, key=lambda each: each.seconds_ago)
            others = len(recent) - 1
            more = f" and {others} other cause{'s' * (others > 1)}" if others else ""
            when = f"{latest.seconds_ago:.0f} s ago"
            yield code, f"{when}: {latest.cause}{more}; see the senders in `prelim status`; {remedy}"
