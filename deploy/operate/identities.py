"""Show and decide about the identities under one Study Instance UID (`prelim identity`)."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from db.operations import overview
from db.session import transaction
from db.studies import conflicts, identity, lifecycle

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.models import Study
    from db.settings import Settings
    from db.studies.conflicts import Decision


def show(settings: Settings, console: Console, name: str, *, values: bool) -> None:
    """Print the identities and the decisions about them; patient attributes only with *values*."""
    with transaction(settings.database()) as session:
        study = lifecycle.find(session, name)
        every = sorted([study, *conflicts.siblings(session, study)], key=lambda row: row.identity_number)
        console.print(_identities(session, every, values=values))
        for row in conflicts.decisions(session, [study.id for study in every]):
            fields = identity.labels(row.differs) or "missing values"
            line = f"{row.decided_at:%Y-%m-%d %H:%M:%S %Z} {row.decision} by {row.decided_by} ({fields})"
            console.print(line, markup=False, highlight=False)


def _identities(session: Session, every: list[Study], *, values: bool) -> Table:
    table = Table("identity", Column("study", min_width=36), "state", "objects", "received", "differs")
    fields = list(identity.LABELS) if values else []
    for name in fields:
        table.add_column(identity.LABELS[name])
    for study in every:
        objects = overview.content(session, study.id).instances
        shown = (study.state, str(objects), f"{study.first_received_at:%Y-%m-%d %H:%M}")
        patient = [escape(getattr(study, name)) for name in fields]
        table.add_row(str(study.identity_number), str(study.id), *shown, identity.labels(study.differs or []), *patient)
    return table


def decide(settings: Settings, console: Console, name: str, decision: Decision, right: int | None) -> None:
    """Carry out a decision of the user of this terminal; raises UnknownStudy, NotPossible."""
    with transaction(settings.database()) as session:
        study = lifecycle.find(session, name)
        remaining = conflicts.decide(session, study, decision, f"user {user()}", right=right)
        console.print(f"{decision.replace('_', ' ')}: study {remaining.id} is {remaining.state}", highlight=False)


def user() -> str:
    """Return the name of the user of this terminal, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container without an entry for its user id.
        return "unknown"
