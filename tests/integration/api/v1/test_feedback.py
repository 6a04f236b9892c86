"""Feedback, impression, hold and release; versions, difference, events and recall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from db.access import keys
from db.models import ReportFeedback
from db.session import transaction

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from fastapi import FastAPI
    from httpx2 import Response

    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def reader(app: FastAPI, database_url: str) -> TestClient:
    with transaction(database_url) as session:
        key = keys.create(session, "reader", ["read", "feedback", "admin"])
    return TestClient(app, headers={"Authorization": f"Bearer {key}"})


def send(reader: TestClient, study: uuid.UUID, body: dict[str, Any], **headers: str) -> Response:
    tag = reader.get(f"/v1/studies/{study}/report").headers["ETag"]
    return reader.post(f"/v1/studies/{study}/report/feedback", json=body, headers={"If-Match": tag} | headers)  # type: ignore[return-value]


def test_feedback_on_the_version_that_was_read_is_stored(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    unread = reader.get("/v1/studies?unread=true").json()["studies"]
    answers = [send(reader, study, {"kind": "opened"}), send(reader, study, {"kind": "final", "text": "Clear."})]
    body = answers[1].json()

    assert [answer.status_code for answer in answers] == [201, 201]
    assert (body["version"], body["kind"], body["author"]) == (1, "final", "key reader")
    assert "text" not in body
    assert [act["text"] for act in reader.get(f"/v1/studies/{study}/report/feedback").json()] == ["", "Clear."]
    assert [each["id"] for each in unread] == [str(study)]
    assert reader.get("/v1/studies?unread=true").json()["studies"] == []


def test_feedback_needs_the_current_etag(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    path, body = f"/v1/studies/{study}/report/feedback", {"kind": "accepted"}
    seen = reader.get(f"/v1/studies/{study}/report").headers["ETag"]
    without = reader.post(path, json=body)
    any_report = reader.post(path, json=body, headers={"If-Match": "*"})
    weak = reader.post(path, json=body, headers={"If-Match": f"W/{seen}"})
    arrivals.late_image(study)
    changed = reader.post(path, json=body, headers={"If-Match": seen})

    assert (without.status_code, without.json()["error"]) == (428, "precondition_required")
    assert (any_report.status_code, any_report.json()["error"]) == (428, "precondition_required")
    assert (weak.status_code, weak.json()["error"]) == (412, "precondition_failed"), "RFC 9110 13.1.1"
    assert (changed.status_code, changed.json()["error"]) == (412, "precondition_failed")


def test_repeated_feedback_with_its_key_is_stored_once(
    reader: TestClient, arrivals: Arrivals, database_url: str
) -> None:
    study = arrivals.reported()
    first, again = (send(reader, study, {"kind": "rejected"}, **{"Idempotency-Key": "k"}) for _ in range(2))
    other = send(reader, study, {"kind": "accepted"}, **{"Idempotency-Key": "k"})

    assert (first.json(), again.headers["Idempotency-Replayed"]) == (again.json(), "true")
    assert other.status_code == 422
    with transaction(database_url) as session:
        assert len(session.scalars(select(ReportFeedback)).all()) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "impression", "text": "x"},
        {"kind": "edited"},
        {"kind": "accepted", "text": "x"},
        {"kind": "accepted", "sentence": 9},
        {"kind": "final", "text": "a\0b"},
        {"kind": "opened", "x": 1},
    ],
)
def test_invalid_feedback_is_422(reader: TestClient, arrivals: Arrivals, body: dict[str, Any]) -> None:
    assert send(reader, arrivals.reported(), body).status_code == 422


def test_held_study_cannot_be_accepted_until_it_is_released(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    held = reader.post(f"/v1/studies/{study}/hold", json={"reason": "side is unclear"})
    twice = reader.post(f"/v1/studies/{study}/hold", json={"reason": "again"})
    accepted = send(reader, study, {"kind": "accepted"})
    rejected = send(reader, study, {"kind": "rejected"})
    shown = reader.get(f"/v1/studies/{study}/report").json()["hold"]
    released = reader.post(f"/v1/studies/{study}/release", json={})
    statuses = [held.status_code, twice.status_code, accepted.status_code, rejected.status_code, released.status_code]

    assert statuses == [201, 409, 409, 201, 201]
    assert (shown["reason"], shown["held_by"], released.json()["released_by"]) == (
        "side is unclear",
        "key reader",
        "key reader",
    )
    assert send(reader, study, {"kind": "accepted"}).status_code == 201
    assert reader.post(f"/v1/studies/{study}/release", json={}).status_code == 409


def hold(reader: TestClient, study: uuid.UUID) -> None:
    assert reader.post(f"/v1/studies/{study}/hold", json={"reason": "side"}).status_code == 201


def newer_version(arrivals: Arrivals, study: uuid.UUID) -> None:
    arrivals.late_image(study)
    arrivals.settle_again(study)
    arrivals.report(study)


#: Change of a study while its report is open -> status of accepting the new state after it was acknowledged.
CHANGES: dict[str, tuple[Callable[[TestClient, Arrivals, uuid.UUID], None], int]] = {
    "newer version": (lambda _, arrivals, study: newer_version(arrivals, study), 201),
    "late image": (lambda _, arrivals, study: arrivals.late_image(study), 201),
    "another request": (lambda _, arrivals, study: arrivals.late_image(study, indication="fracture?"), 201),
    "hold": (lambda reader, _, study: hold(reader, study), 409),
    "identity conflict": (lambda _, arrivals, study: arrivals.late_image(study, patient_id="P-18"), 409),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_state_is_acknowledged_before_anything_is_accepted(
    reader: TestClient, arrivals: Arrivals, change: str
) -> None:
    study = arrivals.reported(indication="cough")
    path = f"/v1/studies/{study}/report"
    seen = {"If-Match": reader.get(path).headers["ETag"]}
    make, accepted = CHANGES[change]
    make(reader, arrivals, study)
    stale = [
        reader.post(f"{path}/feedback", json={"kind": kind}, headers=seen).status_code
        for kind in ("accepted", "opened", "rejected")
    ]

    assert stale == [412, 412, 412]
    assert send(reader, study, {"kind": "opened"}).status_code == 201
    assert send(reader, study, {"kind": "accepted"}).status_code == accepted


def test_release_is_of_the_hold_that_was_seen(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    path = f"/v1/studies/{study}"
    hold(reader, study)
    seen = {"If-Match": reader.get(f"{path}/report").headers["ETag"]}
    reader.post(f"{path}/release", json={})
    reader.post(f"{path}/hold", json={"reason": "wrong patient?"})
    stale = [
        reader.post(f"{path}/{act}", json=body, headers=seen).status_code
        for act, body in (("release", {}), ("hold", {"reason": "x"}))
    ]
    current = {"If-Match": reader.get(f"{path}/report").headers["ETag"], "Idempotency-Key": "k"}
    released = [reader.post(f"{path}/release", json={}, headers=current) for _ in range(2)]

    assert stale == [412, 412]
    assert [answer.status_code for answer in released] == [201, 201]
    assert released[1].headers["Idempotency-Replayed"] == "true"
    empty = arrivals.queued()
    assert reader.post(f"/v1/studies/{empty}/hold", json={"reason": "x"}, headers=seen).status_code == 412
    assert reader.post(f"/v1/studies/{empty}/hold", json={"reason": "x"}).status_code == 201


def test_impression_is_stored_before_the_draft_is_opened_only(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    path = f"/v1/studies/{study}/impression"
    first = reader.post(path, json={"text": "Nodule."})
    send(reader, study, {"kind": "opened"})
    late = reader.post(path, json={"text": "No nodule."})

    assert (first.status_code, first.json()["version"], late.status_code) == (201, 1, 409)


def test_versions_their_difference_and_the_events_of_a_study(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    arrivals.late_image(study)
    arrivals.settle_again(study)
    arrivals.report(study, arrivals.draft(impression="No acute fracture."))
    path = f"/v1/studies/{study}"
    versions = reader.get(f"{path}/report/versions").json()
    diff = reader.get(f"{path}/report/diff?earlier=1").json()
    old = reader.get(f"{path}/report?version=1").json()
    events = reader.get(f"{path}/events").json()

    assert [version["version"] for version in versions] == [2, 1]
    assert [(part["change"], part["text"]) for part in diff["parts"] if part["section"] == "impression"] == [
        ("equal", "No acute"),
        ("removed", "finding."),
        ("added", "fracture."),
    ]
    assert (old["version"], old["superseded"], old["impression"]) == (1, True, "No acute finding.")
    assert reader.get(f"{path}/report?version=3").status_code == 404
    assert [(event["kind"], event["detail"]) for event in events if event["kind"] != "state"] == [
        ("received", "receiving"),
        ("report", "1"),
        ("report", "2"),
    ]
    assert [event["detail"] for event in events if event["kind"] == "state"][:2] == ["settled", "reported"]


def test_recall_lists_every_report_that_used_a_case_model_or_prompt(reader: TestClient, arrivals: Arrivals) -> None:
    first, second = arrivals.reported(), arrivals.reported()
    case = reader.get(f"/v1/studies/{first}/report").json()["evidence"][0]["case_id"]
    page = reader.get("/v1/reports?model_digest=sha256:abc&limit=1")
    rest = reader.get(page.headers["Link"][1:].partition(">")[0]).json()

    assert [row["study_id"] for row in reader.get(f"/v1/reports?case_id={case}").json()["reports"]] == [str(first)]
    assert [row["study_id"] for row in page.json()["reports"] + rest["reports"]] == [str(second), str(first)]
    assert reader.get("/v1/reports?prompt=other").json() == {"reports": [], "next": None}
    assert reader.get("/v1/reports").status_code == 422


def test_unchanged_response_is_304_and_head_is_get_without_a_body(reader: TestClient, arrivals: Arrivals) -> None:
    study = arrivals.reported()
    for path in ("/v1/studies", f"/v1/studies/{study}", f"/v1/studies/{study}/report"):
        first = reader.get(path)
        again = reader.get(path, headers={"If-None-Match": first.headers["ETag"]})
        head = reader.head(path)
        assert (again.status_code, again.content) == (304, b"")
        assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", first.headers["ETag"])
        assert head.headers["Content-Length"] == str(len(first.content))
