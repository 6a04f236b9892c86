"""The request of a study beside its report: its text, and whether the report mentions the findings that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from db.models import Study
from db.session import transaction
from worker.grounding.requested import comparison

if TYPE_CHECKING:
    import uuid

    from fastapi.testclient import TestClient

    from db.reports.versions import Draft
    from tests.integration.api.arrivals import Arrivals

FINDINGS = "No pneumothorax. The heart is normal."


def draft(arrivals: Arrivals, request: str) -> Draft:
    """Return the draft of a study with this request, as a worker writes it."""
    plain = arrivals.draft(findings=FINDINGS)
    return replace(plain, provenance=plain.provenance | comparison(request, FINDINGS))


def beside(client: TestClient, study_id: uuid.UUID) -> dict[str, Any]:
    body = client.get(f"/v1/studies/{study_id}/report").json()
    found: dict[str, Any] = body["imaging_request"]
    return found


def test_request_stands_with_study_and_report(client: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.queued(indication="pneumothorax?", requested_procedure="Chest PA, effusion?")
    arrivals.report(study, draft(arrivals, "pneumothorax?\nChest PA, effusion?"))
    row = client.get("/v1/studies").json()["studies"][0]

    assert (row["indication"], row["requested_procedure"]) == ("pneumothorax?", "Chest PA, effusion?")
    assert beside(client, study) == {
        "indication": "pneumothorax?",
        "requested_procedure": "Chest PA, effusion?",
        "mentioned": "some",
        "unknown_because": "",
        "findings": [
            {"name": "pneumothorax", "mentioned": True},
            {"name": "pleural effusion", "mentioned": False},
        ],
    }


def test_comparison_that_cannot_be_made_states_why(client: TestClient, arrivals: Arrivals, database_url: str) -> None:
    none, old = arrivals.reported(draft(arrivals, "")), arrivals.reported(arrivals.draft(), indication="Cough")
    vague = arrivals.reported(draft(arrivals, "follow-up"), indication="follow-up")
    unread = arrivals.reported()
    with transaction(database_url) as session:
        row = session.get_one(Study, unread)
        row.indication = row.requested_procedure = None
    found = [beside(client, study) for study in (none, old, vague, unread)]

    assert [(each["mentioned"], each["findings"]) for each in found] == [("unknown", [])] * 4
    assert [each["unknown_because"] for each in found] == [
        "the headers give no reason for the examination",
        "the report was written by a release that did not compare it with the request",
        "the request names no finding that is known here",
        "the study was received by a release that did not read the request",
    ]


def test_request_that_changed_after_the_report_is_not_compared(client: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported(draft(arrivals, "pneumothorax?"), indication="pneumothorax?")
    tag = client.get(f"/v1/studies/{study}/report").headers["etag"]
    before = beside(client, study)
    arrivals.late_image(study, indication="fracture?")
    after = beside(client, study)

    assert before["mentioned"] == "all"
    assert (after["indication"], after["mentioned"]) == ("pneumothorax?; fracture?", "unknown")
    assert after["unknown_because"] == "the request has changed since the report was written"
    assert client.get(f"/v1/studies/{study}/report").headers["etag"] != tag
