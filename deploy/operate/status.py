"""Print the state of the system from the database alone, once or regularly (`prelim status --watch`)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from db import reference
from db.errors import ConfigurationError
from db.operations import alarms, heartbeats, listener_status, outcomes, overview, quarantine
from db.session import statements
from deploy.operate import index_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from db.models import Process
    from db.operations.alarms import Alarm
    from db.operations.disk import Disk
    from db.operations.listener_status import ListenerStatus
    from db.operations.outcomes import Outcome
    from db.operations.overview import Overview
    from db.settings import Settings


@dataclass(frozen=True, slots=True)
class _Status:
    """State of the system, read by one statement after the other."""

    facts: Overview
    alive: Sequence[Process]
    raised: list[Alarm]
    listeners: list[ListenerStatus]
    quarantined: dict[str, int]
    ended: list[Outcome]
    disk: Disk | None
    #: Lines about the reference index.
    index: list[str]


def show(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print studies by state, queue, processes, refusals, last error and alarms.

    Without a database, prints the alarms that need none, then raises ConfigurationError or OperationalError.
    """
    try:
        status = _read(settings)
    except (SQLAlchemyError, ConfigurationError):
        console.print(*_alarms(alarms.local(settings)), sep="\n")
        raise
    if as_json:
        console.print_json(json.dumps(_fields(status), default=str))
        return
    console.print(_shown(status))


def watch(settings: Settings, console: Console, pause: Callable[[], None]) -> None:
    """Show the state again after each *pause*, until Ctrl-C; an unreachable database is shown and tried again."""
    with suppress(KeyboardInterrupt):
        if not console.is_terminal:
            # A file or a pipe gets each state below the one before.
            while True:
                console.print(_current(settings))
                pause()
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                live.update(_current(settings), refresh=True)
                pause()


def _current(settings: Settings) -> Group:
    """Return the state with its time, or the cause why it is unknown."""
    now = f"{dt.datetime.now(dt.UTC).astimezone():%Y-%m-%d %H:%M:%S %Z}; Ctrl-C ends"
    try:
        return Group(now, _shown(_read(settings)))
    except ConfigurationError as error:
        return Group(now, Text(str(error)), *_alarms(alarms.local(settings)))
    except SQLAlchemyError as error:
        cause = type(getattr(error, "orig", None) or error).__name__
        return Group(now, Text(f"database unreachable ({cause})", "bold red"), *_alarms(alarms.local(settings)))


def _shown(status: _Status) -> Group:
    return Group(_studies(status.facts), _processes(status.alive), *map(Text, _lines(status)), *_alarms(status.raised))


def _read(settings: Settings) -> _Status:
    # No transaction is open while the disk is measured.
    with statements(settings.database()) as session:
        alive = heartbeats.alive(session)
        return _Status(
            facts=overview.overview(session),
            alive=alive,
            raised=alarms.raised(session, settings, alive),
            listeners=listener_status.current(alive),
            quarantined=quarantine.counts(session),
            ended=outcomes.latest(session),
            disk=alarms.spool_disk(alive, settings),
            index=[
                line
                for snapshot in reference.current_snapshots(session)
                for line in index_info.describe(snapshot, settings.retrieval.min_validated_f1)
            ],
        )


def _fields(status: _Status) -> dict[str, Any]:
    listeners = [
        dataclasses.asdict(found) | {"refusals": [refusals._asdict() for refusals in found.refusals]}
        for found in status.listeners
    ]
    return dataclasses.asdict(status.facts) | {
        "processes": [process.role for process in status.alive],
        "alarms": [alarm.code for alarm in status.raised],
        "alarm_details": {alarm.code: alarm.detail for alarm in status.raised},
        "quarantined": status.quarantined,
        "outcomes": {found.reason or "reported": found.hour for found in status.ended},
        "disk": None if status.disk is None else dataclasses.asdict(status.disk),
        "broker_outages": {process.name: outage for process, outage in _broker_outages(status.alive)},
        "listeners": listeners,
        "reference_index": status.index,
    }


def _lines(status: _Status) -> Iterator[str]:
    yield _queue(status.facts)
    ended = ", ".join(f"{found.hour} {found.reason or 'reported'}" for found in status.ended if found.hour)
    yield f"ended in the last hour: {ended or 'nothing'}"
    yield _last_error(status.facts)
    for reason, count in status.quarantined.items():
        if count:
            yield f"in quarantine: {count} files, {reason} (`prelim quarantine list`)"
    yield from _refusals(status.alive)
    for process, outage in _broker_outages(status.alive):
        yield (
            f"Redis unavailable to {process.role} {process.name} for {outage['seconds']} s ({outage['error']},"
            f" {outage['failures']} failures): workers poll the database, and reports start up to 3 s later"
        )
    for number, limit, processes in listener_status.totals(status.listeners).values():
        several = f" in {processes} processes" if processes > 1 else ""
        yield f"{number} of {limit} associations open{several}"


def _alarms(raised: Sequence[Alarm]) -> list[Text]:
    return [Text(f"ALARM {alarm.code}: {alarm.detail}", "bold red") for alarm in raised]


def _studies(facts: Overview) -> Table:
    table = Table("studies", "", title_justify="left")
    for state, count in facts.studies.items():
        table.add_row(state, str(count), style="" if count else "dim")
    return table


def _processes(alive: Sequence[Process]) -> Table:
    table = Table("alive", "process", "since", "release")
    for process in alive:
        release = str(process.info.get("release", "an earlier one"))
        table.add_row(process.role, process.name, f"{process.started_at:%Y-%m-%d %H:%M:%S %Z}", release)
    return table


def _refusals(alive: Sequence[Process]) -> Iterator[str]:
    """Yield the refusals of each listener since its start, the most frequent first."""
    for calling, reason, count in listener_status.refusals_by_sender(alive):
        yield f"refused {count} times from {calling}: {reason}"


def _broker_outages(alive: Sequence[Process]) -> list[tuple[Process, dict[str, Any]]]:
    """Return the processes for which Redis does not work, with db.jobs.outages.Outage.info."""
    return [(process, process.info["broker_outage"]) for process in alive if process.info.get("broker_outage")]


def _queue(facts: Overview) -> str:
    waiting = facts.oldest_waiting_seconds
    oldest = "" if waiting is None else f", oldest waiting for {waiting:.0f} s"
    return f"{facts.queue_depth} jobs queued{oldest}; {facts.workers_alive} workers alive"


def _last_error(facts: Overview) -> str:
    error = facts.last_error
    if error is None:
        return "no error"
    return f"last error {error.at:%Y-%m-%d %H:%M:%S %Z}: {error.reason}: {error.detail} (study {error.study_id})"
