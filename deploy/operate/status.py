"""Print the state of the system from the database alone (`prelim status`)."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from db.operations import alarms, heartbeats, listener_status, outcomes, overview, quarantine
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from db.models import Process
    from db.operations.alarms import Alarm
    from db.operations.overview import Overview
    from db.settings import Settings


def show(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print studies by state, queue, processes, refusals, last error and alarms.

    Without a database, prints the alarms that need none, then raises ConfigurationError or OperationalError.
    """
    try:
        with transaction(settings.database()) as session:
            facts = overview.overview(session)
            alive = heartbeats.alive(session)
            raised = alarms.raised(session, settings)
            listeners = listener_status.current(session)
            quarantined = quarantine.counts(session)
            ended = outcomes.latest(session)
            disk = alarms.spool_disk(session, settings)
    except (SQLAlchemyError, ConfigurationError):
        _print_alarms(alarms.local(settings), console)
        raise
    if as_json:
        more = {
            "processes": [process.role for process in alive],
            "alarms": [alarm.code for alarm in raised],
            "alarm_details": {alarm.code: alarm.detail for alarm in raised},
            "quarantined": quarantined,
            "outcomes": {found.reason or "reported": found.hour for found in ended},
            "disk": None if disk is None else dataclasses.asdict(disk),
            "broker_outages": {process.name: outage for process, outage in _broker_outages(alive)},
            "listeners": [
                dataclasses.asdict(found) | {"refusals": [refusals._asdict() for refusals in found.refusals]}
                for found in listeners
            ],
        }
        console.print_json(json.dumps(dataclasses.asdict(facts) | more, default=str))
        return
    for table in (_studies(facts), _processes(alive)):
        console.print(table)
    console.print(_queue(facts), _last_error(facts), sep="\n", highlight=False)
    for reason, count in quarantined.items():
        if count:
            console.print(f"in quarantine: {count} files, {reason} (`prelim quarantine list`)", highlight=False)
    for line in _refusals(alive):
        console.print(line, highlight=False)
    for process, outage in _broker_outages(alive):
        console.print(
            f"Redis has refused or not answered {process.role} {process.name} for {outage['seconds']} s"
            f" ({outage['error']}, {outage['failures']} failures): workers poll the database, reports start up to"
            " 3 s later",
            highlight=False,
        )
    for found in listeners:
        console.print(f"{found.open} of {found.limit} associations open", highlight=False)
    _print_alarms(raised, console)


def _print_alarms(raised: Sequence[Alarm], console: Console) -> None:
    for alarm in raised:
        console.print(f"ALARM {alarm.code}: {alarm.detail}", style="bold red", highlight=False)


def _studies(facts: Overview) -> Table:
    table = Table("studies", "", title_justify="left")
    for state, count in facts.studies.items():
        table.add_row(state, str(count), style="" if count else "dim")
    return table


def _processes(alive: Sequence[Process]) -> Table:
    table = Table("alive", "process", "since")
    for process in alive:
        table.add_row(process.role, process.name, f"{process.started_at:%Y-%m-%d %H:%M:%S %Z}")
    return table


def _refusals(alive: Sequence[Process]) -> Iterator[str]:
    """Yield the refusals of each listener since its start, the most frequent first."""
    for process in alive:
        for calling, reason, count in process.info.get("refused", ()):
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
