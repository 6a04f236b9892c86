"""List studies and retry several at once (`prelim list`, `prelim retry --reason`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Column, Table
from sqlalchemy import select

from db.errors import ConfigurationError, NotPossible, Reason
from db.jobs import claims
from db.models import Study
from db.models.studies import ENDED_WITHOUT_REPORT
from db.operations import overview
from db.session import reading, transaction
from db.states import DisplayedState

if TYPE_CHECKING:
    import uuid

    from rich.console import Console

    from db.operations.filters import Filters
    from db.operations.overview import StudyLine
    from db.settings import Settings

#: Limit of the width of the table, in characters.
MAX_COLUMNS = 300


def show(settings: Settings, console: Console, filters: Filters, *, limit: int, as_json: bool) -> None:
    """Print the newest studies that meet *filters*, without patient attributes. Raises ConfigurationError."""
    require_known("state", filters.state, DisplayedState)
    require_known("reason", filters.reason, Reason)
    with reading(settings.database()) as session:
        found = overview.page(session, limit=limit, filters=filters)
    if as_json:
        console.print_json(json.dumps([_fields(study) for study in found.studies]))
        return
    table = Table(Column("study", min_width=36), "received", "state", "reason", "modality", "body part", "report")
    for study in found.studies:
        table.add_row(*_row(study))
    # As wide as its content: a console of 80 columns, or a file, would lose the last columns.
    table.width = console.measure(table, options=console.options.update(width=MAX_COLUMNS)).maximum
    console.print(table, soft_wrap=True)
    if found.following:
        console.print(f"the newest {limit} studies are shown; --limit shows more")


def _fields(study: StudyLine) -> dict[str, str | int | None]:
    """Return what identifies and describes a study without its patient."""
    shown = ("state", "reason", "modality", "body_part", "priority", "revision", "study_instance_uid")
    values = asdict(study)
    return {
        "id": str(study.id),
        "received_at": study.received_at.isoformat(),
        **{name: values[name] for name in shown},
        "report_version": study.report.version if study.report else None,
    }


def _row(study: StudyLine) -> tuple[str, ...]:
    received = f"{study.received_at:%Y-%m-%d %H:%M %Z}"
    report = f"version {study.report.version}" if study.report else ""
    return str(study.id), received, study.state, study.reason or "", study.modality, study.body_part, report


def require_known(name: str, value: str | None, known: type[DisplayedState | Reason]) -> None:
    """Raise ConfigurationError, with the known values, if *value* is given and none of them."""
    if value is not None and value not in set(known):
        raise ConfigurationError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")


def retry_all(settings: Settings, console: Console, reason: str) -> int:
    """Queue every study that ended without a report for *reason*, print how many, and return the exit status.

    Each study in its own transaction: thousands in one would block their workers' results. Raises ConfigurationError.
    """
    require_known("reason", reason, Reason)
    with reading(settings.database()) as session:
        ended = select(Study.id).where(Study.state.in_(ENDED_WITHOUT_REPORT), Study.reason == reason)
        ids = session.scalars(ended.order_by(Study.first_received_at)).all()
    queued = sum(_retry(settings, study_id) for study_id in ids)
    console.print(f"{queued} of {len(ids)} studies with reason {reason} queued")
    return 0 if queued == len(ids) and ids else 1


def _retry(settings: Settings, study_id: uuid.UUID) -> bool:
    with transaction(settings.database()) as session:
        study = session.scalars(select(Study).where(Study.id == study_id).with_for_update()).one()
        try:
            claims.retry(session, study)
        except NotPossible:
            # It changed since it was listed, or has no image.
            return False
        return True
