"""Studies that a caller of the API may see: one filter, used by every query on behalf of a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.models import Quarantined, Study

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement


def visible(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on studies: sent by one of these calling AE titles; None: all."""
    return [] if ae_titles is None else [Study.calling_ae_title.in_(sorted(ae_titles))]


def visible_files(ae_titles: Collection[str] | None) -> list[ColumnElement[bool]]:
    """Return the same conditions on files in quarantine."""
    return [] if ae_titles is None else [Quarantined.calling_ae_title.in_(sorted(ae_titles))]
