"""Print the whole life of one study from the database alone (`prelim trace`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.table import Column, Table

from db.session import reading
from db.studies import lifecycle
from deploy.operate.monitoring import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from db.models import Study
    from db.settings import Settings
    from deploy.operate.monitoring.timeline import Event


def show(settings: Settings, console: Console, name: str, *, as_json: bool) -> None:
    """Print the events of a study in their order, without patient data; raises UnknownStudy."""
    with reading(settings.database()) as session:
        study = lifecycle.find(session, name)
        found = timeline.of_study(session, study)
        complete = timeline.reads_are_complete(session)
    if as_json:
        console.print_json(json.dumps(_fields(study, found, reads_complete=complete), default=str))
        return
    console.print(f"study {study.id}  {study.study_instance_uid}", highlight=False)
    console.print(f"{study.state}, revision {study.revision}, priority {study.priority}", highlight=False)
    console.print(_table(found))
    if not complete:
        console.print(f"reads and storage commitment: those of the first {timeline.DAYS} days")


def _fields(study: Study, found: Sequence[Event], *, reads_complete: bool) -> dict[str, object]:
    return {
        "study": study.id,
        "study_instance_uid": study.study_instance_uid,
        "state": study.state,
        "revision": study.revision,
        "priority": study.priority,
        "reads_complete": reads_complete,
        "events": [event._asdict() for event in found],
    }


def _table(found: Sequence[Event]) -> Table:
    """Return a row for each event, with the seconds since the one before."""
    table = Table("time", "after", "event", Column("detail", overflow="fold"), box=None, pad_edge=False)
    before = found[0].at if found else None
    for event in found:
        after = "" if before is None else f"{(event.at - before).total_seconds():.1f} s"
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S %Z}", after, event.kind, event.detail)
        before = event.at
    return table
