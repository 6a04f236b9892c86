"""Studies that a caller of the API may see: one filter, used by every query on behalf of a caller.

Canaries, the phantom studies of `prelim canary`, are seen by none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from db.models import Canary, Instance, Quarantined, Study

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session


def visible(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on studies: every object was sent by one of these calling AE titles; None: all."""
    if ae_titles is None:
        return [no_canary()]
    allowed = sorted(ae_titles)
    of_others = exists().where(Instance.study_id == Study.id, Instance.calling_ae_title.not_in(allowed))
    # The first object's AE title is a column with an index; it also excludes most studies of others.
    return [no_canary(), Study.calling_ae_title.in_(allowed), ~of_others]


def no_canary() -> ColumnElement[bool]:
    """Return the condition on studies of patients; NOT IN, because a join would change the plans of lists."""
    return Study.study_instance_uid.not_in(select(Canary.study_instance_uid))


def canaries() -> Select[uuid.UUID]:
    """Return the ids of the studies of canaries."""
    return select(Study.id).join(Canary, Canary.study_instance_uid == Study.study_instance_uid)


def is_canary(session: Session, study: Study) -> bool:
    """Return whether this installation has sent the study to itself."""
    return session.get(Canary, study.study_instance_uid) is not None


def visible_files(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on files in quarantine: sent by one of these calling AE titles; None: all."""
    return [] if ae_titles is None else [Quarantined.calling_ae_title.in_(sorted(ae_titles))]
