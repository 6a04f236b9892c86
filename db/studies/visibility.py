"""Studies that a caller of the API may see: one filter, used by every query on behalf of a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists

from db.models import Instance, Quarantined, Study

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement


def visible(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on studies: every object was sent by one of these calling AE titles; None: all."""
    if ae_titles is None:
        return []
    allowed = sorted(ae_titles)
    of_others = exists().where(Instance.study_id == Study.id, Instance.calling_ae_title.not_in(allowed))
    # The first object's AE title is a column with an index; it also excludes most studies of others.
    return [Study.calling_ae_title.in_(allowed), ~of_others]


def visible_files(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on files in quarantine: sent by one of these calling AE titles; None: all."""
    return [] if ae_titles is None else [Quarantined.calling_ae_title.in_(sorted(ae_titles))]
