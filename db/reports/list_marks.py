"""Marks of studies in a list: why each requires attention, and who has its page open."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy.orm import Session

#: Time for which a reader who opened the page of a study, or whose browser refreshed it, counts as reading it.
READING = dt.timedelta(minutes=10)
#: Times are given in full minutes, so that an answer does not change with every refresh.
MINUTE = dt.timedelta(minutes=1)
#: Of the page only, which people open: programs read reports by other routes. Literals, for the partial index.
MARKS = text("""
    SELECT studies.id,
        CASE WHEN studies.is_marked THEN ARRAY(
            SELECT report_checks.name FROM reports JOIN report_checks ON report_id = reports.id
            WHERE study_id = studies.id AND version = studies.report_version
                AND (state = 'warning' OR state = 'notice' AND report_checks.name = 'critical_finding')
            UNION
            SELECT verdict FROM reports JOIN report_findings ON report_id = reports.id
            WHERE study_id = studies.id AND version = studies.report_version
                AND verdict IN ('unsupported', 'contradicted')
            ORDER BY 1
        ) ELSE '{}' END AS attention,
        (
            SELECT json_agg(json_build_array(principal, extract(epoch FROM opened)) ORDER BY opened) FROM (
                SELECT principal, max(at) AS opened FROM audit_rows
                WHERE route = 'GET /studies/{study_id}' AND status < 400 AND audit_rows.studies[1] = wanted.id
                    AND at > :since
                GROUP BY principal
            ) AS found
        ) AS readers
    FROM unnest(CAST(:ids AS uuid[])) AS wanted(id) JOIN studies ON studies.id = wanted.id
""")


class Reader(NamedTuple):
    """Key or person with the page of a study open, as far as is known until *until*; *own*: the caller itself."""

    name: str
    until: dt.datetime
    own: bool


class Marks(NamedTuple):
    """Marks of one study."""

    #: Names of failed checks, of the notice of a critical finding, and of verdicts that speak against a finding.
    attention: list[str]
    readers: list[Reader]


def of_studies(session: Session, study_ids: Collection[uuid.UUID], caller: str) -> dict[uuid.UUID, Marks]:
    """Return the marks of studies; *caller* is the principal that asks."""
    now = dt.datetime.now(dt.UTC)
    rows = session.execute(MARKS, {"ids": list(study_ids), "since": now - READING - MINUTE})
    return {row.id: Marks(row.attention, _readers(row.readers or (), caller, now)) for row in rows}


def _readers(found: Collection[tuple[str, float]], caller: str, now: dt.datetime) -> list[Reader]:
    """Return those of the principals, each with the time of its opening, whose time has not ended."""
    readers = [Reader(name, _until(opened), name == caller) for name, opened in found]
    return [reader for reader in readers if reader.until > now]


def _until(opened: float) -> dt.datetime:
    """Return the end of the time of a reader, in full minutes."""
    return dt.datetime.fromtimestamp(opened // 60 * 60, dt.UTC) + READING + MINUTE
