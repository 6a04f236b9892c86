"""Questions and diagnoses by JSON and on the page."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from db.access import keys
from db.access.principals import READER
from db.answers import predictions
from db.answers.predictions import Received
from db.answers.scaling import ScalingOfTask
from db.jobs import claims
from db.session import transaction
from tests.integration.db.jobs.test_inquiries import ANSWER, DIAGNOSIS

if TYPE_CHECKING:
    from fastapi import FastAPI

    from db.answers.answer import Answer, Diagnosis
    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def key(database_url: str) -> str:
    with transaction(database_url) as session:
        return keys.create(session, "reading room", READER)


def answer(arrivals: Arrivals, study_id: uuid.UUID, result: Answer | Diagnosis) -> None:
    claim = arrivals.claim(study_id)
    with transaction(arrivals.url) as session:
        claims.finish_inquiry(session, claim, result)


def test_question_is_accepted_and_answered_at_its_location(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    accepted = client.post(f"/v1/studies/{study_id}/questions", json={"question": "Is there an effusion?"})
    assert accepted.status_code == 202
    location = accepted.headers["Location"]
    assert location == accepted.json()["url"]
    waiting = client.get(location).json()
    assert (waiting["state"], waiting["answer"], waiting["requested_by"]) == ("queued", None, "key reading room")

    answer(arrivals, study_id, ANSWER)
    found = client.get(location).json()
    assert (found["question"], found["state"]) == ("Is there an effusion?", "finished")
    assert found["answer"]["text"] == "Yes, on the left."
    assert found["answer"]["banner"].startswith("PRELIMINARY")
    assert [image["number"] for image in found["answer"]["images"]] == [1]
    assert client.get(f"/v1/studies/{study_id}/questions").json()["inquiries"] == [found]
    assert client.get(f"/v1/studies/{study_id}/diagnoses").json()["inquiries"] == []


def test_answer_that_is_not_certified_says_why(client: TestClient, visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    location = client.post(f"/v1/studies/{study_id}/questions", json={"question": "Effusion?"}).headers["Location"]
    reason = "the calibration of 2026-11-01 holds for another checkpoint"
    provenance = {"calibration": {"DX CHEST": ScalingOfTask(reason=reason).figures("yes_no")}}
    answer(arrivals, study_id, replace(ANSWER, provenance=provenance))

    found = client.get(location).json()["answer"]
    assert (found["calibration"], found["calibration_reason"]) == ("uncalibrated", reason)
    assert f"(uncalibrated: {reason})." in visitor.get(f"/studies/{study_id}").text


def test_answer_needs_no_right_to_the_images_and_shows_none(app: FastAPI, arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        key = keys.create(session, "reporting", ["worklist", "reports", "questions"])
    reporting = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    study_id = arrivals.reported()
    asked = reporting.post(f"/v1/studies/{study_id}/questions", json={"question": "Effusion?"})
    answer(arrivals, study_id, ANSWER)

    found = reporting.get(asked.headers["Location"])
    assert (asked.status_code, found.json()["answer"]["text"]) == (202, ANSWER.text)
    assert reporting.get(f"/v1/studies/{study_id}/report/images/1").status_code == 403
    assert not any("/images/" in value for value in (found.text, asked.text))


def test_recall_lists_every_answer_that_used_a_case_model_or_specialist(client: TestClient, arrivals: Arrivals) -> None:
    study_id, path = arrivals.reported(), "/v1/answers"
    asked = client.post(f"/v1/studies/{study_id}/questions", json={"question": "Effusion?"}).json()["id"]
    answer(arrivals, study_id, ANSWER)
    chosen = client.post(f"/v1/studies/{study_id}/diagnoses", json={"options": ["effusion", "mass"]}).json()["id"]
    answer(arrivals, study_id, DIAGNOSIS)
    used = client.get(f"/v1/diagnoses/{chosen}").json()["answer"]
    page = client.get(f"{path}?model_digest={used['model_digest']}&limit=1")
    rest = client.get(page.headers["Link"][1:].partition(">")[0]).json()

    assert [row["id"] for row in page.json()["answers"] + rest["answers"]] == [chosen, asked]
    assert (page.json()["answers"][0]["kind"], rest["next"]) == ("diagnosis", None)
    name = used["specialists"][0]["name"]
    assert [row["id"] for row in client.get(f"{path}?specialist={name}").json()["answers"]] == [chosen]
    assert client.get(f"{path}?specialist=other").json()["answers"] == []
    assert client.get(f"{path}?case_id={uuid.uuid4()}").json()["answers"] == []
    assert client.get(path).status_code == 422


def test_diagnosis_says_that_predictions_arrived_after_it(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    body = {"options": ["effusion", "mass"]}
    location = client.post(f"/v1/studies/{study_id}/diagnoses", json=body).headers["Location"]
    answer(arrivals, study_id, DIAGNOSIS)
    before = client.get(location).json()["answer"]["limitations"]
    with transaction(arrivals.url) as session:
        predictions.add(session, [Received(str(study_id), "net", "1", "mass", 0.9)], "tests", study_id)

    after = client.get(location).json()["answer"]["limitations"]
    assert after == [
        "Predictions of specialist models arrived after this answer was begun: ask again (1 of them).",
        *before,
    ]


def test_diagnosis_has_options_vote_and_specialists(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    body = {"options": ["effusion", "mass"]}
    location = client.post(f"/v1/studies/{study_id}/diagnoses", json=body).headers["Location"]
    answer(arrivals, study_id, DIAGNOSIS)
    arrivals.late_image(study_id)

    found = client.get(location).json()["answer"]
    assert [(one["label"], one["probability"], one["votes"]) for one in found["options"]] == [
        ("effusion", 0.7, 2),
        ("mass", 0.1, 0),
    ]
    assert (found["none_of_these"], found["chosen"], found["vote"]) == (0.2, ["effusion"], ["effusion"])
    assert found["specialists"][0]["name"] == "chest-net"
    assert found["newer_revision"] == 2
    assert "Images arrived after this answer" in found["limitations"][0]
    assert client.get(location.replace("diagnoses", "questions")).status_code == 404


def test_repeated_request_with_its_key_asks_once(client: TestClient, arrivals: Arrivals) -> None:
    path = f"/v1/studies/{arrivals.reported()}/questions"
    headers = {"Idempotency-Key": "a"}
    first, second = (client.post(path, json={"question": "Effusion?"}, headers=headers) for _ in range(2))

    assert first.headers["Location"] == second.headers["Location"]
    assert len(client.get(path).json()["inquiries"]) == 1


def test_request_that_cannot_be_asked_names_cause_and_remedy(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    path = f"/v1/studies/{study_id}/questions"
    for text, status in (("", 422), ("a\nb", 422), ("x" * 10_240, 422), ("x" * 40_000, 413)):
        refused = client.post(path, json={"question": text})
        assert (refused.status_code, bool(refused.json()["hint"])) == (status, True)
        assert "xxx" not in refused.text
    assert client.post(path, json={"question": "Effusion?", "stat": True}).status_code == 422
    assert client.post(f"/v1/studies/{uuid.uuid4()}/questions", json={"question": "Effusion?"}).status_code == 404
    receiving = client.post(f"/v1/studies/{arrivals.receiving()}/questions", json={"question": "Effusion?"})
    assert (receiving.status_code, receiving.json()["error"]) == (409, "not_possible")
    assert "still receiving" in receiving.json()["message"]
    one = client.post(f"/v1/studies/{study_id}/diagnoses", json={"options": ["mass"]})
    assert "expected 2 to 64" in one.json()["message"]


def test_inquiry_of_another_site_is_not_found(app: FastAPI, client: TestClient, arrivals: Arrivals) -> None:
    path = f"/v1/studies/{arrivals.reported()}/questions"
    location = client.post(path, json={"question": "Effusion?"}).headers["Location"]
    with transaction(arrivals.url) as session:
        other = keys.create(session, "other", READER, ae_titles=["ELSEWHERE"])
    other_client = TestClient(app, headers={"Authorization": f"Bearer {other}"})

    assert other_client.get(location).status_code == 404
    assert other_client.get(path).status_code == 404
    assert other_client.post(path, json={"question": "Effusion?"}).status_code == 404


def test_page_asks_and_shows_the_answer_under_the_report(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    page = f"/studies/{study_id}"
    asked = visitor.post(f"{page}/questions", data={"question": "Is there <b>an effusion?"})
    assert (asked.status_code, asked.headers["Location"]) == (303, f"{page}#questions")
    assert "Waiting for a worker." in visitor.get(page).text
    answer(arrivals, study_id, ANSWER)

    text = visitor.get(page).text
    assert "Is there &lt;b&gt;an effusion?" in text
    assert "Yes, on the left." in text
    assert "Confidence 0.90 (uncalibrated)" in text
    refused = visitor.post(f"{page}/questions", data={"question": " "})
    assert refused.status_code == 422
    assert "Not asked: the question is empty" in refused.text
    elsewhere = {"Origin": "https://example.org"}
    assert visitor.post(f"{page}/questions", data={"question": "x?"}, headers=elsewhere).status_code == 403
