"""Verify and export the audit log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from db.access import audit_log
from db.errors import PrelimError
from db.session import transaction
from deploy.operate.audit_log import dicom_message, fhir_event
from deploy.operate.audit_log.records import records

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from db.settings import Settings
    from deploy.operate.audit_log.records import Record


class InvalidHeads(PrelimError):
    """Raised when a file does not hold the heads of an earlier verification."""


def verify(settings: Settings, console: Console, heads: Path | None) -> bool:
    """Print the problems of the audit log and its heads as JSON; return whether there is no problem.

    *heads* is a file with the heads that an earlier run printed.
    """
    known = None if heads is None else _read(heads)
    with transaction(settings.database()) as session:
        found = audit_log.verify(session, known)
    for problem in found.problems:
        console.print(f"problem: {problem}", markup=False)
    console.print(f"{found.rows} rows in {found.chains} chains, {len(found.problems)} problems; heads:")
    console.print(json.dumps(found.heads), soft_wrap=True, markup=False, highlight=False)
    return not found.problems


def _read(heads: Path) -> dict[str, list[object]]:
    try:
        known: dict[str, list[object]] = json.loads(heads.read_text())
    except ValueError as error:
        raise InvalidHeads("invalid heads: expected the JSON line that `prelim audit-log verify` printed") from error
    return known


def export(settings: Settings, file: Path, *, fhir: bool, since: dt.datetime | None) -> int:
    """Write one XML message or JSON resource a line; return the number of lines."""
    lines = 0
    with file.open("w", encoding="utf-8") as output:
        for record in records(settings, since):
            for line in _lines(record, fhir=fhir):
                output.write(line + "\n")
                lines += 1
    return lines


def _lines(record: Record, *, fhir: bool) -> Iterator[str]:
    if fhir:
        yield from (json.dumps(event, ensure_ascii=False) for event in fhir_event.events(record))
    else:
        yield dicom_message.message(record)
