"""Filters, orders and cursors of the work list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from db.models import Study
from db.session import transaction

if TYPE_CHECKING:
    import uuid

    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals

ATTRIBUTES = {
    "accession_number": "A-1",
    "patient_id": "P-1",
    "study_date": "20260105",
    "study_description": "CT Thorax (Kontrast)",
}


def listed(client: TestClient, **query: Any) -> list[str]:
    answer = client.get("/v1/studies", params=query)
    assert answer.status_code == 200, answer.text
    return [study["id"] for study in answer.json()["studies"]]


def changed(url: str, study: uuid.UUID, **values: Any) -> str:
    with transaction(url) as session:
        session.execute(update(Study).where(Study.id == study).values(**values))
    return str(study)


def test_each_filter_finds_its_study_and_no_other(client: TestClient, arrivals: Arrivals, database_url: str) -> None:
    first = arrivals.receiving("CT", **ATTRIBUTES)
    own = changed(database_url, first, body_part="HEAD", calling_ae_title="CT1", priority=2)
    other = str(arrivals.receiving("DX", patient_id="P-2"))
    uid = client.get(f"/v1/studies/{own}").json()["study_instance_uid"]
    queries = [
        {"modality": "CT"},
        {"body_part": "HEAD"},
        {"ae_title": "CT1"},
        {"study_date_from": "20260105", "study_date_to": "20260105"},
        {"study_date_to": "20261231"},
        {"patient_id": "P-1"},
        {"accession_number": "A-1"},
        {"study_instance_uid": uid},
        {"description": "kontr thorax"},
        {"priority": "HIGH"},
        {"received_before": client.get(f"/v1/studies/{other}").json()["received_at"]},
    ]

    assert [query for query in queries if listed(client, **query) != [own]] == []
    assert listed(client, received_since=client.get(f"/v1/studies/{other}").json()["received_at"]) == [other]
    assert listed(client, modality="CT", patient_id="P-2") == []
    assert set(listed(client)) == {own, other}
    assert listed(client, sort="urgency") == [own, other]
    assert listed(client, sort="waiting") == [own, other]
    assert listed(client, sort="arrival") == [other, own]


def test_attention_lists_what_a_person_must_look_at(client: TestClient, arrivals: Arrivals) -> None:
    draft = arrivals.draft()
    quiet = str(
        arrivals.reported(type(draft)(**{name: getattr(draft, name) for name in draft.__slots__} | {"checks": []}))
    )
    warned, failed = str(arrivals.reported()), str(arrivals.failed())

    assert set(listed(client, attention="true")) == {warned, failed}
    assert listed(client, attention="false") == [quiet]


@pytest.mark.parametrize("sort", ["arrival", "waiting", "urgency"])
def test_following_next_returns_every_study_once_in_each_order(
    client: TestClient, arrivals: Arrivals, database_url: str, sort: str
) -> None:
    made = [changed(database_url, arrivals.receiving(), priority=level) for level in (0, 2, 0, 2, 1)]
    seen, path = [], f"/v1/studies?sort={sort}&limit=2&modality=DX"
    while True:
        answer = client.get(path)
        seen += [study["id"] for study in answer.json()["studies"]]
        if "Link" not in answer.headers:
            break
        path = answer.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    order = {"arrival": [4, 3, 2, 1, 0], "waiting": [0, 1, 2, 3, 4], "urgency": [3, 1, 4, 2, 0]}[sort]

    assert seen == [made[index] for index in order]


def test_cursor_of_other_filters_is_422(client: TestClient, arrivals: Arrivals) -> None:
    for _ in range(3):
        arrivals.receiving()
    after = client.get("/v1/studies?limit=1&modality=DX").json()["next"]
    statuses = {
        query: client.get(f"/v1/studies?limit=1&after={after}&{query}").status_code
        for query in ("modality=DX", "modality=CT", "modality=DX&sort=waiting", "modality=DX&unread=false")
    }

    assert list(statuses.values()) == [200, 422, 422, 422]


@pytest.mark.parametrize(
    "query",
    [
        "modality=%00",
        "patient_id=" + "x" * 65,
        "study_date_from=2026-01-01",
        "received_since=2026-01-01",
        "received_since=0.5",
        "received_before=20260101",
        "received_since=0001-01-01T00:00:00%2B14:00",
        "received_before=9999-12-31T23:59:59-12:00",
        "study_instance_uid=1.2.Doe",
        "description=%26%7C%21",
        "priority=3",
        "attention=maybe",
        "sort=name",
    ],
)
def test_invalid_filter_is_422(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/studies?{query}")

    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
