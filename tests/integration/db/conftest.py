"""Studies and files, recorded as the indexer does."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from db import settings
from db.jobs import claims
from db.session import transaction
from db.studies import lifecycle, settling

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Not validated: a site cannot set 0 s.
NOW = {"settle_seconds": 0, "settle_cap_seconds": 3600, "settle_broken_seconds": 0}


@dataclass
class Arrivals:
    """One study in a database, whose objects are recorded on demand."""

    url: str
    uid: str = field(default_factory=lambda: f"2.25.{uuid.uuid4().int}")
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def image(self, **changes: object) -> lifecycle.Recorded:
        """Record one more image of the study, with *changes* of its attributes."""
        with transaction(self.url) as session:
            return lifecycle.record_instance(session, self.received(**changes))

    def received(self, **changes: object) -> lifecycle.ReceivedInstance:
        """Return one more image of the study, with *changes* of its attributes, that is not recorded yet."""
        number = next(self._numbers)
        values: dict[str, object] = {
            "study": lifecycle.StudyAttributes(self.uid, patient_id="PHANTOM-1", patient_name="PHANTOM^ONE"),
            "sop_instance_uid": f"{self.uid}.{number}",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "series_instance_uid": f"{self.uid}.0",
            "modality": "CT",
            "reportable": True,
            "file_path": f"spool/store/{self.uid}-{number}.dcm",
            "file_bytes": 100,
            "sha256": f"{number:064d}",
            "received_at": dt.datetime.now(dt.UTC),
            "calling_ae_title": "CT_ER",
        }
        return lifecycle.ReceivedInstance(**(values | changes))  # type: ignore[arg-type]

    def settle(self, *, sending: Mapping[str, float] = settling.NOTHING, **changes: object) -> list[uuid.UUID]:
        """Settle due studies; return the ids of the new jobs."""
        limits = settings.Study.model_construct(**(NOW | changes))  # type: ignore[arg-type]
        with transaction(self.url) as session:
            return settling.settle_due(session, limits, sending)

    def claim(self) -> claims.Claim | None:
        """Claim the most urgent waiting job in a transaction of its own."""
        with transaction(self.url) as session:
            return claims.claim_next(session, owner="test", lease_seconds=30)

    def running_job(self) -> claims.Claim:
        """Record an image, settle the study and claim its job."""
        self.image()
        self.settle()
        claim = self.claim()
        assert claim is not None
        return claim

    def state(self) -> str:
        """Return the state of the study."""
        with transaction(self.url) as session:
            return lifecycle.find(session, self.uid).state


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    return Arrivals(database_url)
