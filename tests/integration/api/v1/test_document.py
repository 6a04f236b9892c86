"""The OpenAPI document names every status that is sent."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from openapi_spec_validator import validate

from api.errors import ErrorCode

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals


def test_document_is_valid(app: FastAPI) -> None:
    validate(app.openapi())  # type: ignore[arg-type]


def test_every_reference_has_its_schema(app: FastAPI) -> None:
    document = app.openapi()
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert named - set(document["components"]["schemas"]) == set()
    assert "$defs" not in str(document)


def test_sent_status_and_media_type_are_documented(app: FastAPI, client: TestClient, anonymous: TestClient) -> None:
    study = str(uuid.uuid4())
    for path, methods in app.openapi()["paths"].items():
        place = path.format(study_id=study, inquiry_id=study, ordinal=1, instance_id=study, frame=1)
        for method, operation in methods.items():
            answers = [sender.request(method, place) for sender in (client, anonymous)]
            answers += [client.request(method, f"{place}?unknown=1"), client.request("DELETE", place)]
            for answer in answers:
                documented: Any = operation["responses"][str(answer.status_code)]
                kind = answer.headers.get("content-type", "").partition(";")[0]
                assert not answer.content or kind in documented["content"], (method, path, answer.status_code)


def test_method_not_allowed_names_the_methods_of_all_routes_of_the_path(client: TestClient) -> None:
    study = uuid.uuid4()
    expected = {
        f"/v1/studies/{study}/questions": "GET, HEAD, POST",
        f"/v1/studies/{study}/identity": "GET, HEAD, POST",
        f"/v1/studies/{study}/hold": "POST",
        "/login": "GET, HEAD, POST",
        # Without HEAD: it would wait for the end of the stream.
        "/v1/events": "GET",
    }

    assert {path: client.request("DELETE", path).headers["Allow"] for path in expected} == expected


def test_client_that_accepts_another_media_type_gets_406_without_data(client: TestClient, arrivals: Arrivals) -> None:
    report = f"/v1/studies/{arrivals.reported(patient_name='Doe^Jane')}/report"
    accepted = (
        "*/*",
        "application/*;q=0.5",
        "text/html, application/json;q=0.1",
        "",
        "application/json; charset=utf-8",
    )
    refused = ("text/html", "image/*", "*/*, application/json;q=0", "application/xml")

    assert {client.get(report, headers={"Accept": one}).status_code for one in accepted} == {200}
    for one in refused:
        answer = client.get(report, headers={"Accept": one})
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert "banner" not in answer.text
    assert client.get(f"{report}/images/1", headers={"Accept": "application/json"}).status_code == 406
    assert client.head(report, headers={"Accept": "text/html"}).content == b""
    assert client.get("/v1/live", headers={"Accept": "text/plain"}).status_code == 200


def test_type_of_a_problem_is_a_page(anonymous: TestClient) -> None:
    problem = anonymous.get("/v1/studies").json()
    pages = {code: anonymous.get(f"/docs/problems/{code}").status_code for code in ErrorCode}

    assert problem["type"] == "/docs/problems/unauthorized"
    assert anonymous.get("/docs/problems/other").status_code == 404
    assert set(pages.values()) == {200}
