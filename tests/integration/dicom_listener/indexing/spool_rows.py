"""Rows and files that indexing has left, for its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from db.session import transaction
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from db.models import Instance, Quarantined, Study
    from db.settings import Settings


def rows(settings: Settings, table: type[Study | Instance | Quarantined]) -> list[Any]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(table)))


def files(settings: Settings) -> dict[str, int]:
    spool = Spool(settings.spool)
    return {folder.name: len(list(folder.rglob("*.*"))) for folder in (spool.inbox, spool.store, spool.quarantine)}
