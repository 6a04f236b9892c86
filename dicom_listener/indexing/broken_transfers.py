"""Record in studies that a transfer of them broke off, once its files are indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from db.session import transaction
from db.studies.transfers import break_off

if TYPE_CHECKING:
    from collections.abc import Collection

    from db.settings import Settings
    from dicom_listener.spool.associations import Transfer

log = structlog.get_logger()


def record(settings: Settings, broken: Collection[Transfer]) -> None:
    """Record the transfers that have stopped within an object, or ended without a release."""
    for transfer in broken:
        with transaction(settings.database()) as session:
            studies = break_off(session, transfer.study_instance_uid, transfer.association_id)
        if studies:
            log.warning("transfer.broke_off", association_id=transfer.association_id)
