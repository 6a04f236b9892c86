"""Predictions of specialist models that belong to no study: list them, and delete those that wait too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import text

from db.session import transaction

if TYPE_CHECKING:
    import datetime as dt
    import threading

    from sqlalchemy.orm import Session

    from db.settings import Settings

log = structlog.get_logger()

#: Days that a prediction waits for its study: a result of another system arrives within hours of the images.
MAX_DAYS = 30
#: Seconds between two visits, and rows of one transaction.
PAUSE_SECONDS, BATCH = 3600, 1000
#: Rows of a list.
MAX_LISTED = 100

NO_STUDY = "no study has this Study Instance UID or accession number"
SEVERAL_STUDIES = "several studies have this Study Instance UID or accession number"

#: Numbers of the studies with the name of a prediction.
_NAMED = """
    FROM specialist_predictions AS sent,
        LATERAL (SELECT count(*) AS studies FROM studies WHERE study_instance_uid = sent.study) AS by_uid,
        LATERAL (SELECT count(*) AS studies FROM studies
            WHERE accession_number = sent.study AND accession_number <> '') AS by_number
    WHERE sent.study_id IS NULL
"""
_DELETE = text(f"""
    DELETE FROM specialist_predictions WHERE id IN (
        SELECT sent.id {_NAMED} AND sent.received_at < clock_timestamp() - make_interval(days => :days)
            AND by_uid.studies + by_number.studies = 0
        LIMIT :batch)
""")  # noqa: S608 - constants
_LIST = text(f"""
    SELECT sent.study, sent.name, sent.version, sent.draft <> '' AS is_draft, sent.received_at,
        by_uid.studies + by_number.studies AS studies
    {_NAMED} AND by_uid.studies <> 1 AND by_number.studies <> 1
    ORDER BY sent.id LIMIT :limit
""")


class Unmatched(NamedTuple):
    """A prediction that belongs to no study, and why."""

    study: str
    name: str
    version: str
    is_draft: bool
    received_at: dt.datetime
    reason: str


def listed(session: Session) -> list[Unmatched]:
    """Return the oldest predictions that belong to no study, at most MAX_LISTED."""
    rows = session.execute(_LIST, {"limit": MAX_LISTED})
    return [
        Unmatched(
            row.study,
            row.name,
            row.version,
            row.is_draft,
            row.received_at,
            SEVERAL_STUDIES if row.studies else NO_STUDY,
        )
        for row in rows
    ]


def delete_old(session: Session) -> int:
    """Delete at most BATCH predictions of studies that did not arrive within MAX_DAYS; return their number."""
    found: int = session.execute(_DELETE, {"days": MAX_DAYS, "batch": BATCH}).rowcount  # type: ignore[attr-defined]
    return found


def run_once(settings: Settings, stop: threading.Event) -> None:
    """Delete what waits too long, then wait for the next visit, or for *stop*."""
    with transaction(settings.database()) as session:
        deleted = delete_old(session)
    if deleted:
        log.warning("predictions.deleted", predictions=deleted, reason=f"their study did not arrive in {MAX_DAYS} days")
    stop.wait(0 if deleted == BATCH else PAUSE_SECONDS)
