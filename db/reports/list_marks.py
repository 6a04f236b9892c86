"""Marks of studies in a list: why each requires attention, and who has its page open."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import literal_column, null

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Label

#: Time for which a reader who opened the page of a study, or whose browser refreshed it, counts as reading it.
READING = dt.timedelta(minutes=10)
#: Times are given in full minutes, so that an answer does not change with every refresh.
MINUTE = dt.timedelta(minutes=1)
#: Of a study whose row is named `shown`, and its newest report `newest`.
ATTENTION = """
    CASE WHEN shown.is_marked THEN ARRAY(
        SELECT name FROM report_checks WHERE report_id = newest.id
            AND (state = 'warning' OR state = 'notice' AND name = 'critical_finding')
        UNION
        SELECT verdict FROM report_findings WHERE report_id = newest.id
            AND verdict IN ('unsupported', 'contradicted')
        ORDER BY 1
    ) ELSE '{}' END
"""
#: Of the page only, which people open: programs read reports by other routes. Literals, for the partial index.
READERS = f"""
    (
        SELECT json_agg(json_build_array(principal, extract(epoch FROM opened)) ORDER BY opened) FROM (
            SELECT principal, max(at) AS opened FROM audit_rows
            WHERE route = 'GET /studies/{{study_id}}' AND status < 400 AND audit_rows.studies[1] = shown.id
                AND at > now() - interval '{(READING + MINUTE).total_seconds():.0f} s'
            GROUP BY principal
        ) AS found
    )
"""  # noqa: S608 - constants
#: Columns of a statement that names its studies and reports so.
COLUMNS: tuple[Label[Any], ...] = literal_column(ATTENTION).label("attention"), literal_column(READERS).label("readers")

#: In their place where they are not read.
NO_COLUMNS: tuple[Label[Any], ...] = null().label("attention"), null().label("readers")


class Reader(NamedTuple):
    """Key or person with the page of a study open, as far as is known until *until*; *own*: the caller itself."""

    name: str
    until: dt.datetime
    own: bool


def readers(found: Collection[tuple[str, float]], caller: str) -> list[Reader]:
    """Return the readers in a value of READERS whose time has not ended; *caller* is the principal that asks."""
    if not found:
        return []
    now = dt.datetime.now(dt.UTC)
    named = [Reader(name, _until(opened), name == caller) for name, opened in found]
    return [reader for reader in named if reader.until > now]


def _until(opened: float) -> dt.datetime:
    """Return the end of the time of a reader, in full minutes."""
    return dt.datetime.fromtimestamp(opened // 60 * 60, dt.UTC) + READING + MINUTE
