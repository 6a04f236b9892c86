"""Print the state of the system from the database alone (`prelim status`)."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.table import Table

from db.operations import alarms, heartbeats, overview
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from db.models import Process
    from db.operations.overview import Overview
    from db.settings import Settings


def show(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print studies by state, queue, processes, last error and alarms. Raises ConfigurationError without a database."""
    with transaction(settings.database()) as session:
        facts = overview.overview(session)
        alive = heartbeats.alive(session)
        raised = alarms.raised(session, settings)
    if as_json:
        more = {"processes": [process.role for process in alive], "alarms": [alarm.code for alarm in raised]}
        console.print_json(json.dumps(dataclasses.asdict(facts) | more, default=str))
        return
    for table in (_studies(facts), _processes(alive)):
        console.print(table)
    console.print(_queue(facts), _last_error(facts), sep="\n", highlight=False)
    for line in _refusals(alive):
        console.print(line, highlight=False)
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
    """Yield the listener's refusals since its start, from the dispatcher's heartbeat."""
    for process in alive:
        for calling, reason, count in process.info.get("refused", ()):
            yield f"refused {count} times from {calling}: {reason}"


def _queue(facts: Overview) -> str:
    waiting = facts.oldest_waiting_seconds
    oldest = "" if waiting is None else f", oldest waiting for {waiting:.0f} s"
    return f"{facts.queue_depth} jobs queued{oldest}; {facts.workers_alive} workers alive"


def _last_error(facts: Overview) -> str:
    error = facts.last_error
    if error is None:
        return "no error"
    return f"last error {error.at:%Y-%m-%d %H:%M:%S %Z}: {error.reason}: {error.detail} (study {error.study_id})"
