from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from db.jobs import claims
from db.models import Process, ReferenceCase
from db.operations import heartbeats
from db.reports import image_files, versions
from db.session import transaction
from db.settings import Settings
from deploy.launcher import lost_database
from deploy.operate import report_images
from tests.integration.api.arrivals import Arrivals, png

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi.testclient import TestClient

    from db.models import ReportImage


def test_health_is_degraded_until_worker_and_dispatcher_are_alive(anonymous: TestClient, database_url: str) -> None:
    alone = anonymous.get("/v1/health")
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)
    without_dispatcher = anonymous.get("/v1/health")
    with transaction(database_url) as session:
        session.add(Process(name="host:2", role="dispatcher"))
    staffed = anonymous.get("/v1/health")

    assert (alone.status_code, alone.json()) == (
        503,
        {"status": "degraded", "database": "ok", "workers": 0, "listeners": [], "alarms": []},
    )
    assert (without_dispatcher.status_code, without_dispatcher.json()) == (
        503,
        {"status": "degraded", "database": "ok", "workers": 1, "listeners": [], "alarms": ["no_dispatcher"]},
    )
    assert (staffed.status_code, staffed.json()) == (
        200,
        {"status": "ok", "database": "ok", "workers": 1, "listeners": [], "alarms": []},
    )


def test_list_has_the_newest_study_first_with_its_report_summary(client: TestClient, arrivals: Arrivals) -> None:
    reported = arrivals.reported(patient_name="Doe^Jane", study_description="Chest")
    waiting = arrivals.queued()
    body = client.get("/v1/studies").json()
    first, second = body["studies"]

    assert (first["id"], first["state"], first["report"]) == (str(waiting), "queued", None)
    assert (second["id"], second["state"], second["patient_name"]) == (str(reported), "reported", "Doe^Jane")
    assert second["report"]["basis"] == "1 of 1 images"
    assert second["report"]["banner"] == versions.BANNER
    assert body["next"] is None


def test_following_next_returns_every_study_once(client: TestClient, arrivals: Arrivals) -> None:
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


def test_list_can_be_filtered_by_state(client: TestClient, arrivals: Arrivals) -> None:
    arrivals.queued()
    running = arrivals.running()
    body = client.get("/v1/studies", params={"state": "running"}).json()

    assert [study["id"] for study in body["studies"]] == [str(running)]


@pytest.mark.parametrize(
    "query", [{"limit": "101"}, {"limit": "0"}, {"state": "Doe^Jane"}, {"after": "Doe^Jane"}, {"after": "AAAA"}]
)
def test_invalid_parameter_is_named_and_not_repeated(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get("/v1/studies", params=query)
    ((name, value),) = query.items()

    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_request"
    assert answer.json()["message"].startswith(f"{name}: ")
    assert len(value) < 5 or value not in answer.text


def test_study_has_the_numbers_of_its_objects(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.receiving()
    arrivals.late_image(study_id)
    body = client.get(f"/v1/studies/{study_id}").json()

    assert (body["id"], body["state"]) == (str(study_id), "receiving")
    assert body["content"] == {"series": 1, "instances": 2, "images": 2}


@pytest.mark.parametrize("tail", ["", "/report", "/report/images/1"])
def test_unknown_study_is_404_with_a_hint(client: TestClient, tail: str) -> None:
    answer = client.get(f"/v1/studies/{uuid.uuid4()}{tail}")

    assert answer.status_code == 404
    assert (answer.json()["error"], answer.json()["message"]) == ("not_found", "study not found")


def test_unknown_path_has_the_same_error_body(client: TestClient) -> None:
    keys = {"type", "title", "status", "detail", "code", "error", "message", "hint"}
    for answer in (client.get("/v1/nowhere"), client.post("/v1/studies")):
        assert answer.json().keys() == keys
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


def test_report_has_text_basis_limitations_and_provenance(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert body["banner"] == versions.BANNER
    assert (body["version"], body["revision"], body["outdated"]) == (1, 1, False)
    assert (body["findings"], body["impression"]) == ("The lungs are clear.", "No acute finding.")
    assert (body["basis"], body["limitations"]) == ("1 of 1 images", ["cut short at 200 tokens"])
    assert (body["model_digest"], body["prompt_version"]) == ("sha256:abc", "report/1")
    assert body["provenance"] == {"torch": "2.13.0"}


def test_evidence_has_case_similarity_and_source(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    (case,) = client.get(f"/v1/studies/{study_id}/report").json()["evidence"]

    assert (case["rank"], case["similarity"], case["excerpt"]) == (1, 0.91, "Clear lungs in an earlier case.")
    assert (case["source"], case["modality"], case["body_part"]) == ("made", "DX", "CHEST")


def test_checks_are_listed_with_warnings_first(client: TestClient, arrivals: Arrivals) -> None:
    checks = client.get(f"/v1/studies/{arrivals.reported()}/report").json()["checks"]

    assert [(check["name"], check["state"]) for check in checks] == [
        ("prior", "warning"),
        ("size", "passed"),
        ("sex", "not_applicable"),
    ]
    assert checks[0]["sentences"] == ["The text compares <b>with</b> a prior."]


def test_report_whose_case_was_erased_says_so(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    with transaction(arrivals.url) as session:
        session.query(ReferenceCase).delete()
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert body["limitations"][0] == "1 of 1 similar earlier case has been erased since this report was written."
    assert body["evidence"][0]["quoted"] == ""


def test_evidence_has_the_text_that_the_model_received(client: TestClient, arrivals: Arrivals) -> None:
    (case,) = client.get(f"/v1/studies/{arrivals.reported()}/report").json()["evidence"]

    assert (case["quoted"], case["warnings"]) == ("Clear lungs.", [])


def test_images_and_evidence_name_the_part_of_the_study(client: TestClient, arrivals: Arrivals) -> None:
    parts = [{"name": "CT HEAD", "images": 1, "evidence": 0}, {"name": "CT CHEST", "images": 2, "evidence": 1}]
    study_id = arrivals.reported(arrivals.draft([png(1), png(2), png(3)], parts))
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert [image["part"] for image in body["images"]] == ["CT HEAD", "CT CHEST", "CT CHEST"]
    assert [case["part"] for case in body["evidence"]] == ["CT CHEST"]


def test_image_is_exactly_the_one_given_to_the_model(client: TestClient, arrivals: Arrivals) -> None:
    given = [png(10), png(200)]
    study_id = arrivals.reported(arrivals.draft(given))
    images = client.get(f"/v1/studies/{study_id}/report").json()["images"]
    answers = [client.get(image["url"]) for image in images]

    assert [answer.content for answer in answers] == given
    assert {answer.headers["Content-Type"] for answer in answers} == {"image/png"}
    assert [image["sha256"] for image in images] == [hashlib.sha256(each).hexdigest() for each in given]
    assert (images[1]["frame"], images[1]["transform"]) == (1, {"window": [40, 400]})
    assert images[1]["warnings"] == ["burned-in text"]


def test_versioned_image_is_cached_privately_and_sent_once(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    url = client.get(f"/v1/studies/{study_id}/report").json()["images"][0]["url"]
    first = client.get(url)
    again = client.get(url, headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})

    assert {"private", "immutable"} <= set(first.headers["Cache-Control"].split(", "))
    assert "Cookie" in first.headers["Vary"]
    assert (again.status_code, again.content) == (304, b"")


def test_image_without_a_version_is_revalidated(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(10)]))
    address = f"/v1/studies/{study_id}/report/images/1"
    before = client.get(address)
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft([png(200)]))
    after = client.get(address, headers={"If-None-Match": before.headers["ETag"]})

    assert before.headers["Cache-Control"] == "private, no-cache"
    assert (after.status_code, after.content) == (200, png(200))
    assert client.get(address, params={"version": 1}).content == png(10)


@pytest.mark.parametrize("ordinal", [2, 32767])
def test_missing_image_is_404(client: TestClient, arrivals: Arrivals, ordinal: int) -> None:
    study_id = arrivals.reported()

    assert client.get(f"/v1/studies/{study_id}/report/images/{ordinal}").status_code == 404


@pytest.mark.parametrize("ordinal", [0, -1, 32768])
def test_invalid_image_number_is_422(client: TestClient, arrivals: Arrivals, ordinal: int) -> None:
    assert client.get(f"/v1/studies/{arrivals.reported()}/report/images/{ordinal}").status_code == 422


@pytest.mark.parametrize("state", ["receiving", "queued", "running"])
def test_pending_report_is_404_with_the_state(client: TestClient, arrivals: Arrivals, state: str) -> None:
    answer = client.get(f"/v1/studies/{getattr(arrivals, state)()}/report")

    assert answer.status_code == 404
    assert (answer.json()["error"], answer.json()["state"]) == ("no_report_yet", state)


@pytest.mark.parametrize(("state", "reason"), [("failed", "broken"), ("not_reportable", "no_pixels")])
def test_study_without_a_report_is_404_with_the_reason(
    client: TestClient, arrivals: Arrivals, state: str, reason: str
) -> None:
    body = client.get(f"/v1/studies/{getattr(arrivals, state)()}/report").json()

    assert (body["error"], body["state"], body["reason"]) == ("no_report", state, reason)
    assert body["reason_detail"]


def test_report_is_outdated_after_late_images(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)

    assert client.get(f"/v1/studies/{study_id}/report").json()["outdated"] is True


def test_newest_version_is_the_current_report(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft(findings="Now with two images."))
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert (body["version"], body["findings"], body["outdated"]) == (2, "Now with two images.", False)


def test_old_names_of_images_and_limitations_still_work(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(10)]))
    body = client.get(f"/v1/studies/{study_id}/report").json()

    assert (body["remarks"], body["pictures"]) == (body["limitations"], body["images"])
    assert client.get(f"/v1/studies/{study_id}/report/pictures/1").content == png(10)


def test_old_names_are_deprecated_in_openapi(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    paths = {path for path, methods in document["paths"].items() if methods.get("get", {}).get("deprecated")}
    fields = document["components"]["schemas"]["Report"]["properties"]

    assert paths == {"/v1/studies/{study_id}/report/pictures/{ordinal}"}
    assert {name for name, field in fields.items() if field.get("deprecated")} == {"remarks", "pictures"}


def stored_in_files(arrivals: Arrivals, folder: Path, images: list[bytes]) -> uuid.UUID:
    """A report whose images are in files below *folder*."""
    study_id = arrivals.queued()
    claim = arrivals.claim(study_id)
    paths = image_files.write(folder, claim.job_id, claim.token, images)
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, arrivals.draft(images), paths)
    return study_id


def test_image_in_a_file_is_served_as_one_in_the_database(
    client: TestClient, arrivals: Arrivals, tmp_path: Path
) -> None:
    study_id = stored_in_files(arrivals, tmp_path, [png(10), png(20)])

    answer = client.get(f"/v1/studies/{study_id}/report/images/2?version=1")

    assert (answer.status_code, answer.content) == (200, png(20))
    assert answer.headers["ETag"] == f'"{hashlib.sha256(png(20)).hexdigest()}"'


@pytest.mark.parametrize("content", [None, b"", png(20)], ids=["missing", "empty", "other"])
def test_missing_or_damaged_image_is_an_error_that_names_the_remedy(
    client: TestClient, arrivals: Arrivals, tmp_path: Path, content: bytes | None
) -> None:
    study_id = stored_in_files(arrivals, tmp_path, [png(10)])
    [path] = (tmp_path / image_files.FOLDER).rglob("*.png")
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    answer = client.get(f"/v1/studies/{study_id}/report/images/1")

    assert (answer.status_code, answer.json()["error"]) == (500, "image_damaged")
    assert "prelim audit" in answer.json()["hint"]
    assert client.get(f"/v1/studies/{study_id}/report").status_code == 200, "the text stays"


def test_image_moved_since_its_row_was_read_is_served(
    client: TestClient, arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = stored_in_files(arrivals, tmp_path, [png(10)])
    read = image_files.read

    def moved(folder: Path, image: ReportImage) -> bytes:
        if image.file_path:
            settings = Settings(data_dir=tmp_path, database_url=arrivals.url)
            monkeypatch.undo()
            # As the dispatcher notes it: no object is stored.
            lost_database.accept(settings)
            report_images.move(settings, Console(quiet=True), "database")
        return read(folder, image)

    monkeypatch.setattr(image_files, "read", moved)

    assert client.get(f"/v1/studies/{study_id}/report/images/1").content == png(10)
