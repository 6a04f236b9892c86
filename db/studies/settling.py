"""Settling: a study that is quiet, or has received images for too long, is considered complete and gets its job.

Late images make a new revision. Each revision must be quiet for longer than the one before, so that a slow sender does
not get a report for every image; after a number of revisions an operator decides.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from sqlalchemy import ARRAY, Text, case, cast, false, func, or_, select, true

from db.errors import Reason
from db.models import Instance, Job, Study
from db.states import JobState, StudyState
from db.studies import transfers
from db.studies.priority import ROUTINE, effective_queued_at

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from db import settings

#: Studies settled in one transaction: a backlog after an outage must not become one long transaction.
BATCH = 50
#: Limit of the factor by which the quiet time grows, one more with each revision.
MAX_QUIET_FACTOR = 10
#: Quiet times for which an open association without bytes delays a routine study: scanners pause between two series.
SILENCE_FACTOR = 2
#: Hexadecimal digits of a key: two of a million waiting studies have the same one with a probability of 3e-8.
KEY_DIGITS = 16
NOTHING: Mapping[str, float] = MappingProxyType({})


def study_key(study_instance_uid: str) -> str:
    """Return the key of a study in the names of its waiting files: a digest, because names are logged."""
    return hashlib.sha256(study_instance_uid.encode()).hexdigest()[:KEY_DIGITS]


def has_waiting_files(waiting: Collection[str]) -> ColumnElement[bool]:
    """Condition of a study with one of these keys."""
    if not waiting:
        return false()
    digest = func.encode(func.sha256(func.convert_to(Study.study_instance_uid, "UTF8")), "hex")
    # A subquery is hashed in any plan. A generic one would compare each study with each element of an array: 3 s for
    # 10,000 studies and 50,000 keys.
    return func.left(digest, KEY_DIGITS).in_(select(func.unnest(cast(list(waiting), ARRAY(Text)))))


def settle_due(
    session: Session,
    limits: settings.Study,
    sending: Mapping[str, float] = NOTHING,
    waiting: Collection[str] = (),
    *,
    unlisted: bool = False,
) -> list[uuid.UUID]:
    """Settle every study that is quiet or has received images for too long; return the ids of the new jobs.

    Quiet: no object for `settle_seconds` (or the value of `settle_rules` for AE title or modality) times its revision,
    at least `settle_broken_seconds` if its transfer broke off; and no byte of an object for as long. *sending* has the
    Study Instance UIDs that open associations send now, with the seconds since the latest bytes; an association without
    bytes delays a study for SILENCE_FACTOR quiet times, and an urgent study not at all.
    Too long: its revision began `settle_cap_seconds` ago. *waiting* has the keys of the studies with files that wait to
    be indexed: they do not settle, except at twice the cap, because such a file may be damaged. *unlisted*: each other
    study may have such files, in an inbox that cannot be listed, unless it has all announced objects.
    A revision beyond `max_revisions` is cancelled until an operator retries it.
    """
    jobs = []
    for study, quiet, capped, broken in session.execute(_due(limits, sending, waiting, unlisted=unlisted)).all():
        if not broken:
            study.broken_off_at = study.broken_association_id = None
        why = f"still receiving images after {limits.settle_cap_seconds:g} s" if capped else f"quiet for {quiet:g} s"
        why = f"the transfer broke off, {why}" if broken else why
        jobs.append(_settle_or_cancel(session, study, why, limits.max_revisions))
    return [job for job in jobs if job is not None]


def _due(
    limits: settings.Study, sending: Mapping[str, float], waiting: Collection[str], *, unlisted: bool
) -> Select[Study, float, bool, bool]:
    broken = transfers.is_incomplete()
    usual = _quiet_seconds(limits) * func.least(Study.revision, MAX_QUIET_FACTOR)
    quiet = case((broken, func.greatest(usual, limits.settle_broken_seconds)), else_=usual)
    age = func.extract("epoch", func.clock_timestamp() - Study.last_received_at)
    open_for = func.extract("epoch", func.clock_timestamp() - Study.revision_started_at)
    capped = open_for >= limits.settle_cap_seconds
    is_quiet = (age >= quiet) & ~_is_sent(sending, quiet)
    has_all = ~has_waiting_files(waiting) & (_has_announced() if unlisted else true())
    is_indexed = has_all | (open_for >= 2 * limits.settle_cap_seconds)
    return (
        select(Study, quiet.label("quiet"), capped.label("capped"), broken.label("broken"))
        .where(Study.state == StudyState.RECEIVING, or_(is_quiet, capped), is_indexed)
        .order_by(Study.priority.desc(), Study.last_received_at)
        .limit(BATCH)
        # SKIP LOCKED: several dispatchers share the work.
        .with_for_update(skip_locked=True)
    )


def _has_announced() -> ColumnElement[bool]:
    """Condition of a study with the announced number of objects."""
    received = select(func.count()).select_from(Instance).where(Instance.study_id == Study.id)
    return func.coalesce(Study.announced, math.inf) <= received.correlate(Study).scalar_subquery()


def _settle_or_cancel(session: Session, study: Study, why: str, max_revisions: int) -> uuid.UUID | None:
    job_id = settle(session, study, why)
    if job_id is None or study.revision <= max_revisions:
        return job_id
    job = session.get_one(Job, job_id)
    job.state, job.finished_at, job.reason = JobState.CANCELLED, func.clock_timestamp(), Reason.TOO_MANY_REVISIONS
    job.detail = f"late images arrived {study.revision - 1} times: `prelim retry` writes a report about all images"
    study.state, study.reason, study.detail = StudyState.CANCELLED, job.reason, job.detail
    return None


def _is_sent(sending: Mapping[str, float], quiet: ColumnElement[float]) -> ColumnElement[bool]:
    """Condition of a study that an open association sends now."""
    if not sending:
        return false()
    silent = case(dict(sending), value=Study.study_instance_uid, else_=math.inf)
    return silent < quiet * case((Study.priority > ROUTINE, 1), else_=SILENCE_FACTOR)


def _quiet_seconds(limits: settings.Study) -> ColumnElement[float]:
    if not limits.settle_rules:
        return func.coalesce(limits.settle_seconds)
    by_ae_title = [(Study.calling_ae_title == name, seconds) for name, seconds in limits.settle_rules.items()]
    by_modality = [(Study.modality == name, seconds) for name, seconds in limits.settle_rules.items()]
    return case(*by_ae_title, *by_modality, else_=limits.settle_seconds)


def _announced(session: Session, study: Study) -> str:
    """Return the announced number of objects, if it differs from the received number."""
    received = session.scalar(select(func.count()).select_from(Instance).where(Instance.study_id == study.id))
    if study.announced is None or study.announced == received:
        return ""
    return f" ({received} of {study.announced} objects announced)"


def _describe(session: Session, study: Study) -> None:
    """Set modality and body part by all images: those of the first object depend on the order of arrival."""
    rows = session.execute(
        select(Instance.modality, Instance.body_part, func.count())
        .where(Instance.study_id == study.id, Instance.reportable)
        .group_by(Instance.modality, Instance.body_part)
    )
    modalities, body_parts = Counter[str](), Counter[str]()
    for modality, body_part, images in rows:
        modalities[modality] += images
        body_parts[body_part] += images
    study.modality = next(iter(_by_number(modalities)), "")
    study.body_part = ", ".join(_by_number(body_parts))


def _by_number(counted: Counter[str]) -> list[str]:
    """Return the names except the empty one, the most frequent first."""
    return sorted(filter(None, counted), key=lambda name: (-counted[name], name))


def settle(session: Session, study: Study, why: str) -> uuid.UUID | None:
    """Settle a locked study that is receiving; return the id of its job, None if it has no image."""
    images = session.scalar(
        select(func.count()).select_from(Instance).where(Instance.study_id == study.id, Instance.reportable)
    )
    study.settled_at = func.clock_timestamp()
    study.settle_reason = f"{why}, with {images} image{'' if images == 1 else 's'}{_announced(session, study)}"
    if not images:
        study.state, study.reason = StudyState.NOT_REPORTABLE, Reason.NO_IMAGES
        study.detail = "the study contains no object that can be reported"
        return None
    _describe(session, study)
    study.state = StudyState.SETTLED
    urgent_at = effective_queued_at(study.priority)
    job = Job(study_id=study.id, revision=study.revision, priority=study.priority, urgent_at=urgent_at)
    session.add(job)
    session.flush()
    return job.id
