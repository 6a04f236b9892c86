"""Show and decide about the identities under one Study Instance UID (`prelim identity`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table

from db.operations import overview
from db.session import reading, transaction
from db.studies import lifecycle
from db.studies.identity import decisions, identity
from deploy.operate.audit_log import command_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.models import Study
    from db.settings import Settings
    from db.studies.identity.decisions import Decision


_FIELDS = tuple(identity.LABELS.items())


def show(settings: Settings, console: Console, name: str, *, values: bool) -> None:
    """Print the identities and the decisions about them; patient attributes only with *values*."""
    with reading(settings.database()) as session:
        study = lifecycle.find(session, name)
        every = sorted([study, *decisions.siblings(session, study)], key=lambda row: row.identity_number)
        table, lines = _identities(session, every), list(_lines(session, every, values=values))
    if values:
        command_entries.note(settings, "read", "prelim identity --values", [study.id for study in every])
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _identities(session: Session, every: list[Study]) -> Table:
    table = Table("identity", Column("study", min_width=36), "state", "objects")
    for study in every:
        objects = overview.content(session, study.id).instances
        table.add_row(str(study.identity_number), str(study.id), study.state, str(objects))
    return table


def _lines(session: Session, every: list[Study], *, values: bool) -> Iterator[str]:
    for study in every if values else ():
        yield "\n".join(
            (f"identity {study.identity_number}", *(f"  {label}: {getattr(study, name)}" for name, label in _FIELDS))
        )
    if every[0].differs is not None:
        yield f"different: {identity.labels(every[0].differs) or 'no field; the objects fit several identities'}"
    for row in decisions.decided(session, [study.id for study in every]):
        fields = identity.labels(row.differs) or "missing values"
        yield f"{row.decided_at:%Y-%m-%d %H:%M:%S %Z} {row.decision} by {row.decided_by} ({fields})"


def decide(settings: Settings, console: Console, name: str, decision: Decision, right: int | None) -> None:
    """Carry out a decision of the user of this terminal; raises UnknownStudy, NotPossible."""
    with transaction(settings.database()) as session:
        study = lifecycle.find(session, name)
        uid, studies = study.study_instance_uid, [study.id, *(row.id for row in decisions.siblings(session, study))]
        decisions.decide(session, study, decision, f"user {command_entries.user()}", right=right)
        command_entries.chain().commit(
            session, [command_entries.entry("create", f"prelim identity {decision}", studies)]
        )
    show(settings, console, uid, values=False)
