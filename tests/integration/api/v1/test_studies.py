from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import pytest

from db.models import Process
from db.operations import heartbeats
from db.reports import versions
from db.session import transaction
from tests.integration.api.arrivals import Arrivals, png

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


def test_health_is_degraded_until_a_worker_and_a_dispatcher_live(anonymous: TestClient, database_url: str) -> None:
    alone = anonymous.get("/v1/health")
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)
    without_dispatcher = anonymous.get("/v1/health")
    with transaction(database_url) as session:
        session.add(Process(name="host:2", role="dispatcher"))
    staffed = anonymous.get("/v1/health")

    assert (alone.status_code, alone.json()) == (
        503,
        {"status": "degraded", "database": "ok", "workers": 0, "alarms": []},
    )
    assert (without_dispatcher.status_code, without_dispatcher.json()) == (
        503,
        {"status": "degraded", "database": "ok", "workers": 1, "alarms": ["no_dispatcher"]},
    )
    assert (staffed.status_code, staffed.json()) == (
        200,
        {"status": "ok", "database": "ok", "workers": 1, "alarms": []},
    )


def test_the_list_shows_the_newest_study_first_with_what_its_report_rests_on(
    client: TestClient, arrivals: Arrivals
) -> None:
    reported = arrivals.reported(patient_name="Doe^Jane", study_description="Chest")
    waiting = arrivals.queued()
    body = client.get("/v1/studies").json()
    first, second = body["studies"]

    assert (first["id"], first["state"], first["report"]) == (str(waiting), "queued", None)
    assert (second["id"], second["state"], second["patient_name"]) == (str(reported), "reported", "Doe^Jane")
    assert second["report"]["basis"] == "1 of 1 images"
    assert second["report"]["banner"] == versions.BANNER
    assert body["next"] is None


def test_following_next_gives_every_study_once(client: TestClient, arrivals: Arrivals) -> None:
    made = [str(arrivals.receiving()) for _ in range(5)]
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    while True:
        body = client.get("/v1/studies", params=query).json()
        seen += [study["id"] for study in body["studies"]]
        if body["next"] is None:
            break
        query["after"] = body["next"]

    assert seen == made[::-1]


def test_the_list_can_be_of_one_state(client: TestClient, arrivals: Arrivals) -> None:
    arrivals.queued()
    running = arrivals.running()
    body = client.get("/v1/studies", params={"state": "running"}).json()

    assert [study["id"] for study in body["studies"]] == [str(running)]


@pytest.mark.parametrize(
    "query", [{"limit": "101"}, {"limit": "0"}, {"state": "Doe^Jane"}, {"after": "Doe^Jane"}, {"after": "AAAA"}]
)
def test_what_makes_no_sense_is_named_and_not_repeated(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get("/v1/studies", params=query)
    ((name, value),) = query.items()

    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_request"
    assert answer.json()["message"].startswith(f"{name}: ")
    assert len(value) < 5 or value not in answer.text


def test_one_study_says_how_much_of_it_has_arrived(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.receiving()
    arrivals.late_image(study_id)
    body = client.get(f"/v1/studies/{study_id}").json()

    assert (body["id"], body["state"]) == (str(study_id), "receiving")
    assert body["content"] == {"series": 1, "instances": 2, "images": 2}


@pytest.mark.parametrize("tail", ["", "/report", "/report/pictures/1"])
def test_an_unknown_study_is_404_with_a_hint(client: TestClient, tail: str) -> None:
    answer = client.get(f"/v1/studies/{uuid.uuid4()}{tail}")

    assert answer.status_code == 404
    assert (answer.json()["error"], answer.json()["message"]) == ("not_found", "study not found")


def test_an_unknown_address_has_the_same_shape(client: TestClient) -> None:
    assert client.get("/v1/nowhere").json().keys() == {"error", "message", "hint"}
    assert client.post("/v1/studies").json().keys() == {"error", "message", "hint"}


def test_a_report_comes_with_everything_it_rests_on(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert body["banner"] == versions.BANNER
    assert (body["version"], body["revision"], body["outdated"]) == (1, 1, False)
    assert (body["findings"], body["impression"]) == ("The lungs are clear.", "No acute finding.")
    assert (body["basis"], body["remarks"]) == ("1 of 1 images", ["cut short at 200 tokens"])
    assert (body["model_digest"], body["prompt_version"]) == ("sha256:abc", "report/1")
    assert body["provenance"] == {"torch": "2.13.0"}


def test_the_evidence_names_the_case_its_similarity_and_its_source(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    (case,) = client.get(f"/v1/studies/{study_id}/report").json()["evidence"]

    assert (case["rank"], case["similarity"], case["excerpt"]) == (1, 0.91, "Clear lungs in an earlier case.")
    assert (case["source"], case["modality"], case["body_part"]) == ("made", "DX", "CHEST")


def test_a_picture_is_exactly_what_the_model_saw(client: TestClient, arrivals: Arrivals) -> None:
    seen = [png(10), png(200)]
    study_id = arrivals.reported(arrivals.draft(seen))
    pictures = client.get(f"/v1/studies/{study_id}/report").json()["pictures"]
    answers = [client.get(picture["url"]) for picture in pictures]

    assert [answer.content for answer in answers] == seen
    assert {answer.headers["Content-Type"] for answer in answers} == {"image/png"}
    assert [picture["sha256"] for picture in pictures] == [hashlib.sha256(each).hexdigest() for each in seen]
    assert (pictures[1]["frame"], pictures[1]["transform"]) == (1, {"window": [40, 400]})
    assert pictures[1]["warnings"] == ["burned-in text"]


def test_a_versioned_picture_is_kept_by_its_reader_alone_and_sent_once(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    url = client.get(f"/v1/studies/{study_id}/report").json()["pictures"][0]["url"]
    first = client.get(url)
    again = client.get(url, headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})

    assert {"private", "immutable"} <= set(first.headers["Cache-Control"].split(", "))
    assert "Cookie" in first.headers["Vary"]
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_named_without_its_version_is_asked_for_anew(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(10)]))
    address = f"/v1/studies/{study_id}/report/pictures/1"
    before = client.get(address)
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft([png(200)]))
    after = client.get(address, headers={"If-None-Match": before.headers["ETag"]})

    assert before.headers["Cache-Control"] == "private, no-cache"
    assert (after.status_code, after.content) == (200, png(200))
    assert client.get(address, params={"version": 1}).content == png(10)


@pytest.mark.parametrize("ordinal", [2, 32767])
def test_a_picture_that_is_not_there_is_404(client: TestClient, arrivals: Arrivals, ordinal: int) -> None:
    study_id = arrivals.reported()

    assert client.get(f"/v1/studies/{study_id}/report/pictures/{ordinal}").status_code == 404


@pytest.mark.parametrize("ordinal", [0, -1, 32768])
def test_a_picture_that_cannot_be_is_422(client: TestClient, arrivals: Arrivals, ordinal: int) -> None:
    assert client.get(f"/v1/studies/{arrivals.reported()}/report/pictures/{ordinal}").status_code == 422


@pytest.mark.parametrize("state", ["receiving", "queued", "running"])
def test_a_report_that_is_still_to_come_is_404_with_the_state(
    client: TestClient, arrivals: Arrivals, state: str
) -> None:
    answer = client.get(f"/v1/studies/{getattr(arrivals, state)()}/report")

    assert answer.status_code == 404
    assert (answer.json()["error"], answer.json()["state"]) == ("no_report_yet", state)


@pytest.mark.parametrize(("state", "reason"), [("failed", "broken"), ("not_reportable", "no_pixels")])
def test_a_report_that_will_not_come_is_404_with_the_reason(
    client: TestClient, arrivals: Arrivals, state: str, reason: str
) -> None:
    body = client.get(f"/v1/studies/{getattr(arrivals, state)()}/report").json()

    assert (body["error"], body["state"], body["reason"]) == ("no_report", state, reason)
    assert body["detail"]


def test_a_report_says_that_images_came_after_it(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)

    assert client.get(f"/v1/studies/{study_id}/report").json()["outdated"] is True


def test_the_newest_version_is_the_report(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft(findings="Now with two images."))
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert (body["version"], body["findings"], body["outdated"]) == (2, "Now with two images.", False)
