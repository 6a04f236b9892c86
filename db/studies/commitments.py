"""Storage commitment: record requests, take those whose result is due, record deliveries."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from db.errors import Reason
from db.models import Commitment, Quarantined
from db.models.base import any_of, given

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy.orm import Session

#: Seconds until the second delivery of a result; doubled for each further one.
FIRST_PAUSE_SECONDS = 10
#: Seconds: a modality that is switched off over a weekend gets the result within an hour of its return.
MAX_PAUSE_SECONDS = 3600
#: Age of a request at which a failed delivery is the last one: a device that was removed never returns.
GIVE_UP_AFTER = dt.timedelta(days=7)
#: Seconds until a request that waits for its objects is looked at again.
WAIT_SECONDS = 2


def record(session: Session, commitment: Commitment) -> None:
    """Record a request; repeating it changes nothing.

    A request that the requester sends again, with its Transaction UID, is due at once on the new association, unless
    its result was delivered.
    """
    session.execute(
        update(Commitment)
        .where(
            Commitment.transaction_uid == commitment.transaction_uid,
            Commitment.calling_ae_title == commitment.calling_ae_title,
            Commitment.requested == cast(commitment.requested, JSONB),
            Commitment.delivered_at.is_(None),
            Commitment.id != commitment.id,
        )
        .values(association_id=commitment.association_id, due_at=func.clock_timestamp(), given_up_at=None)
    )
    session.execute(insert(Commitment).values(given(commitment)).on_conflict_do_nothing())


def take_due(
    session: Session, *, besides: Collection[str] = (), waiting: Collection[uuid.UUID] = ()
) -> Commitment | None:
    """Return the next request whose result is due, and postpone it in case its delivery is not recorded.

    Requests of the AE titles *besides* and the requests *waiting* are skipped. Requests that were never tried go first:
    results that cannot be delivered must not delay the others.
    """
    commitment = session.scalars(
        select(Commitment)
        .where(Commitment.delivered_at.is_(None), Commitment.given_up_at.is_(None))
        .where(Commitment.due_at <= func.clock_timestamp())
        .where(Commitment.calling_ae_title.not_in(list(besides)), Commitment.id.not_in(list(waiting)))
        .order_by(Commitment.attempts > 0, Commitment.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if commitment is not None:
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(commitment.attempts, 20), MAX_PAUSE_SECONDS)
        commitment.attempts += 1
        commitment.due_at = func.clock_timestamp() + dt.timedelta(seconds=pause)
    return commitment


def mark_delivered(session: Session, commitment_id: uuid.UUID) -> None:
    """Record that the requester accepted the result."""
    _update(session, commitment_id, delivered_at=func.clock_timestamp(), detail=None)


def mark_failed(session: Session, commitment_id: uuid.UUID, detail: str, *, last: bool = False) -> bool:
    """Record why the delivery failed; return whether it was the last, because of *last* or the age of the request."""
    commitment = session.get_one(Commitment, commitment_id, with_for_update=True)
    now = session.scalars(select(func.clock_timestamp())).one()
    commitment.detail = detail
    if last or now - commitment.received_at > GIVE_UP_AFTER:
        commitment.given_up_at = now
    return commitment.given_up_at is not None


def mark_verified(session: Session, commitment_id: uuid.UUID, failed: Collection[tuple[str, str, int]]) -> None:
    """Keep the verdict on the requested objects."""
    _update(session, commitment_id, verified_at=func.clock_timestamp(), failed=[list(item) for item in failed])


def wait(session: Session, commitment_id: uuid.UUID) -> None:
    """Postpone a request whose objects may still be indexed, without counting an attempt."""
    due_at = func.clock_timestamp() + dt.timedelta(seconds=WAIT_SECONDS)
    _update(session, commitment_id, due_at=due_at, attempts=Commitment.attempts - 1)


def _update(session: Session, commitment_id: uuid.UUID, **values: object) -> None:
    session.execute(update(Commitment).where(Commitment.id == commitment_id).values(**values))


def conflicting(session: Session, calling_ae_title: str, sop_instance_uids: Collection[str]) -> set[str]:
    """Return the UIDs under which *calling_ae_title* sent an object other than the stored one."""
    return set(
        session.scalars(
            select(Quarantined.sop_instance_uid).where(
                Quarantined.sop_instance_uid == any_of(sop_instance_uids),
                Quarantined.reason == Reason.CONFLICTING_SOP_INSTANCE,
                Quarantined.calling_ae_title == calling_ae_title,
            )
        )
    )
