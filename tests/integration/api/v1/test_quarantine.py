"""Files in quarantine in the API, on the page and in the metrics."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING

from sqlalchemy import select

from api.page import pages
from db.models import Instance, Quarantined
from db.session import transaction
from db.studies import lifecycle

if TYPE_CHECKING:
    import pytest
    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals


def quarantine(url: str, study_id: uuid.UUID, name: str = "a") -> None:
    """Another version of the study's object."""
    with transaction(url) as session:
        uid = session.scalars(select(Instance.sop_instance_uid).where(Instance.study_id == study_id)).one()
        row = Quarantined(
            file_path=f"spool/quarantine/{name}.dcm",
            file_bytes=10,
            sha256="b",
            sop_instance_uid=uid,
            calling_ae_title="CT<1>",
            reason="conflicting_sop_instance",
            detail="another object with this SOP Instance UID was received first",
            received_at=dt.datetime.now(dt.UTC),
        )
        lifecycle.quarantine(session, row)


def test_quarantined_files_are_shown(
    client: TestClient, visitor: TestClient, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = arrivals.reported()
    assert "No file is in quarantine." in visitor.get("/quarantine").text
    quarantine(arrivals.url, study_id)

    answer = client.get("/v1/quarantine", params={"study_id": str(study_id)}).json()
    [file] = answer["files"]
    assert (file["reason"], file["study_id"]) == ("conflicting_sop_instance", str(study_id))
    assert {reason: count for reason, count in answer["counts"].items() if count} == {"conflicting_sop_instance": 1}
    assert client.get("/v1/quarantine", params={"study_id": str(uuid.uuid4())}).json()["files"] == []
    page = visitor.get("/quarantine").text
    assert f"prelim quarantine take {file['id']}" in page
    assert "CT&lt;1&gt;" in page
    monkeypatch.setattr(pages, "QUARANTINED", 1)
    assert "Only the newest" not in visitor.get("/quarantine").text, "as many as a page lists are all of them"
    assert "Another version of 1 object was sent" in visitor.get(f"/studies/{study_id}").text
    assert 'prelim_quarantined{reason="conflicting_sop_instance"} 1.0' in client.get("/metrics").text
    quarantine(arrivals.url, study_id, "b")
    assert "Only the newest 1 are listed." in visitor.get("/quarantine").text
