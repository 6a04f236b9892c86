"""Sealed drafts: their text leaves neither API nor page before the reader has looked at the study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from db.access import keys
from db.session import transaction
from db.settings import Settings

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals

    Reader = Callable[[str], TestClient]

SECRET = "The lungs are clear."


def readers(arrivals: Arrivals, folder: Path, drafts: Literal["after_images", "after_impression"]) -> Reader:
    app = create_app(Settings(data_dir=folder, database_url=SecretStr(arrivals.url), drafts=drafts))

    def reader(name: str) -> TestClient:
        with transaction(arrivals.url) as session:
            key = keys.create(session, name, ["read", "feedback", "questions"])
        client = TestClient(app, follow_redirects=False)
        assert client.post("/login", data={"key": key}).status_code == 303
        return client

    return reader


def paths(study_id: uuid.UUID) -> list[str]:
    own = f"/v1/studies/{study_id}"
    report = f"{own}/report"
    return [report, f"{report}?version=1", f"{report}/diff?earlier=1", f"{report}/feedback", f"{own}/questions"]


def assert_sealed(client: TestClient, study_id: uuid.UUID) -> None:
    page = client.get(f"/studies/{study_id}")
    assert (page.status_code, SECRET in page.text, "The draft is sealed" in page.text) == (200, False, True)
    answers = [client.get(path) for path in paths(study_id)]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(403, "sealed")] * len(answers)
    act = {"kind": "accepted", "sentence": 1}
    refused = client.post(f"/v1/studies/{study_id}/report/feedback", json=act, headers={"If-Match": '"any"'})
    assert refused.status_code == 403


def assert_open(client: TestClient, study_id: uuid.UUID) -> None:
    assert [client.get(path).status_code for path in paths(study_id)] == [200] * 5
    assert SECRET in client.get(f"/studies/{study_id}").text


def test_own_impression_opens_the_draft_for_its_reader_alone(arrivals: Arrivals, tmp_path: Path) -> None:
    study_id = arrivals.reported()
    reader = readers(arrivals, tmp_path, "after_impression")
    one, other = reader("one"), reader("other")
    assert_sealed(one, study_id)
    empty = one.post(f"/studies/{study_id}/impression", data={"text": " "})
    assert (empty.status_code, SECRET in empty.text) == (422, False)
    assert one.post(f"/studies/{study_id}/impression", data={"text": "Left effusion."}).status_code == 303

    assert_open(one, study_id)
    assert_sealed(other, study_id)


def test_images_sent_to_a_reader_permit_to_open_this_version(arrivals: Arrivals, tmp_path: Path) -> None:
    study_id = arrivals.reported()
    one = readers(arrivals, tmp_path, "after_images")("one")
    opening = f"/v1/studies/{study_id}/report/open"
    assert_sealed(one, study_id)
    assert one.post(opening, json={}).status_code == 409
    assert one.get(f"/v1/studies/{study_id}/report/images/1").status_code == 200
    assert_sealed(one, study_id)
    assert one.post(f"/studies/{study_id}/open").status_code == 303
    assert_open(one, study_id)

    # Images that arrive later are not those that were seen.
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id)
    assert_sealed(one, study_id)
    assert one.post(opening, json={}).status_code == 409


@pytest.mark.parametrize("version", [1, 2])
def test_drafts_are_shown_by_default(client: TestClient, arrivals: Arrivals, version: int) -> None:
    study_id = arrivals.reported()

    assert client.get(f"/v1/studies/{study_id}/report?version={version}").status_code == {1: 200, 2: 404}[version]
