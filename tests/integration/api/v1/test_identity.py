"""A held study in the API and on the page, and the decision of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from db.access import idempotency, keys
from db.models import IdempotentRequest, Study
from db.session import transaction
from db.studies.identity import conflicts, decisions

if TYPE_CHECKING:
    import uuid

    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals

OTHER = {"patient_name": "Roe^Rita", "patient_id": "P-18", "patient_birth_date": "19330303"}


@pytest.fixture
def held(arrivals: Arrivals) -> uuid.UUID:
    """A reported study under whose UID an object of another patient arrived."""
    study_id = arrivals.reported()
    arrivals.late_image(study_id, **OTHER)
    return study_id


@pytest.fixture
def decider(database_url: str) -> dict[str, str]:
    with transaction(database_url) as session:
        return {"Authorization": f"Bearer {keys.create(session, 'supervisor', ['read', 'identity'])}"}


def test_held_study_shows_what_differs(client: TestClient, held: uuid.UUID) -> None:
    study = client.get(f"/v1/studies/{held}").json()

    assert (study["state"], study["reason"]) == ("held", "identity_conflict")
    assert study["differs"] == ["patient_id", "patient_name", "patient_birth_date"]
    assert "Roe" not in study["detail"]
    identities = client.get(f"/v1/studies/{held}/identity").json()
    assert [row["patient_name"] for row in identities["studies"]] == ["Doe^Jane", "Roe^Rita"]
    assert [row["content"]["instances"] for row in identities["studies"]] == [1, 1]
    shown = [(row["state"], row["attention"]) for row in identities["studies"]]
    assert shown == [("held", ["held", "prior"]), ("held", ["held"])]


def test_report_of_a_held_study_says_so(client: TestClient, held: uuid.UUID) -> None:
    report = client.get(f"/v1/studies/{held}/report").json()

    assert report["limitations"][0] == conflicts.HELD
    assert report["version"] == 1


def test_held_study_without_report_names_the_remedy(client: TestClient, held: uuid.UUID) -> None:
    other = client.get(f"/v1/studies/{held}/identity").json()["studies"][1]["id"]
    answer = client.get(f"/v1/studies/{other}/report")

    assert (answer.status_code, answer.json()["error"], answer.json()["state"]) == (404, "no_report", "held")
    assert "a person must decide" in answer.json()["hint"]


def test_page_shows_both_patients_of_a_held_study(visitor: TestClient, held: uuid.UUID) -> None:
    page = visitor.get(f"/studies/{held}").text

    assert "no AI report is written" in page
    assert "Patient ID, Patient&#39;s Name, Patient&#39;s Birth Date." in page
    assert "Roe, Rita" in page
    assert "The lungs are clear." in page
    assert 'class="state held"' in visitor.get("/").text


def test_person_decides_with_a_call(client: TestClient, held: uuid.UUID, decider: dict[str, str]) -> None:
    answer = client.post(f"/v1/studies/{held}/identity", json={"decision": "keep_apart"}, headers=decider)
    again = client.post(f"/v1/studies/{held}/identity", json={"decision": "keep_apart"}, headers=decider)

    assert answer.status_code == again.status_code == 200
    assert [study["state"] for study in again.json()["studies"]] == ["reported", "receiving"]
    assert [(row["decision"], row["decided_by"]) for row in again.json()["decisions"]] == [
        ("keep_apart", "key supervisor")
    ]


def test_repeated_decision_with_its_key_is_answered_again(
    client: TestClient, held: uuid.UUID, decider: dict[str, str], database_url: str
) -> None:
    path, headers = f"/v1/studies/{held}/identity", decider | {"Idempotency-Key": "k1"}
    first, again = (client.post(path, json={"decision": "keep_apart"}, headers=headers) for _ in range(2))
    other = client.post(path, json={"decision": "refuse"}, headers=headers)
    with transaction(database_url) as session:
        stored = session.scalars(select(IdempotentRequest)).one()

    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status_code, other.json()["error"]) == (422, "idempotency_key_reused")
    assert "Doe" not in str(stored.answer), "no copy of patient data"


def test_answer_of_a_request_that_failed_is_not_stored(
    client: TestClient, arrivals: Arrivals, decider: dict[str, str], database_url: str
) -> None:
    path, headers = f"/v1/studies/{arrivals.queued()}/identity", decider | {"Idempotency-Key": "k1"}
    answers = [client.post(path, json={"decision": "refuse"}, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [409, 409]
    with transaction(database_url) as session:
        assert session.scalars(select(IdempotentRequest)).all() == []


def test_request_whose_key_is_in_use_is_409(
    client: TestClient, held: uuid.UUID, decider: dict[str, str], database_url: str
) -> None:
    with transaction(database_url) as session:
        assert idempotency.earlier(session, "key supervisor", "k1", "") is None
        answer = client.post(
            f"/v1/studies/{held}/identity", json={"decision": "refuse"}, headers=decider | {"Idempotency-Key": "k1"}
        )

    assert (answer.status_code, answer.json()["error"]) == (409, "idempotency_key_in_use")


def test_decision_needs_its_scope(client: TestClient, held: uuid.UUID) -> None:
    answer = client.post(f"/v1/studies/{held}/identity", json={"decision": "refuse"})

    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")


def test_invalid_decision_is_rejected(client: TestClient, held: uuid.UUID, decider: dict[str, str]) -> None:
    path, json = f"/v1/studies/{held}/identity", decider | {"Content-Type": "application/json"}
    for body in (b"", b"{}", b'{"decision": "maybe"}', b'{"decision": "refuse", "x": 1}'):
        answer = client.post(path, content=body, headers=json)
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert client.post(path, content=b"x" * 2000, headers=json).status_code == 413
    assert client.post(path, content=b"decision=refuse", headers=decider).status_code == 415
    anonymous = client.post(f"/v1/studies/{held}/identity", content=b"x" * 2000, headers={"Authorization": "Bearer x"})
    assert anonymous.status_code == 401


def test_decision_about_a_study_that_is_not_held_is_not_possible(
    client: TestClient, arrivals: Arrivals, decider: dict[str, str]
) -> None:
    answer = client.post(f"/v1/studies/{arrivals.queued()}/identity", json={"decision": "refuse"}, headers=decider)

    assert (answer.status_code, answer.json()["error"]) == (409, "not_possible")


def test_held_study_raises_an_alarm(client: TestClient, held: uuid.UUID, database_url: str) -> None:
    metrics = client.get("/metrics").text

    assert 'prelim_alarm{code="identity_conflict"} 1.0' in metrics
    assert 'prelim_studies{state="held"} 2.0' in metrics
    with transaction(database_url) as session:
        decisions.decide(session, session.get_one(Study, held), decisions.Decision.REFUSE, "user test")
    assert 'prelim_alarm{code="identity_conflict"} 0.0' in client.get("/metrics").text
