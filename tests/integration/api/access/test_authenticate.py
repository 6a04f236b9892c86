from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, text, update

from db.access import keys
from db.models import ApiKey, PageSession
from db.session import transaction

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tests.integration.api.arrivals import Arrivals

OPEN = {
    "/v1/live", "/v1/health", "/metrics", "/login", "/login/provider", "/login/callback", "/logout", "/docs",
    "/docs/problems/not_found", "/openapi.json",
}  # fmt: skip
SOME = "0b7d5d5e-7c2b-4f0e-9a53-5d1f6c1e8a11"
GUARDED_API = [
    "/v1/studies",
    f"/v1/studies/{SOME}",
    f"/v1/studies/{SOME}/identity",
    f"/v1/studies/{SOME}/events",
    f"/v1/studies/{SOME}/report/diff",
    f"/v1/studies/{SOME}/report/feedback",
    f"/v1/studies/{SOME}/report/versions",
    f"/v1/studies/{SOME}/questions",
    f"/v1/studies/{SOME}/diagnoses",
    f"/v1/questions/{SOME}",
    f"/v1/diagnoses/{SOME}",
    "/v1/answers",
    "/v1/reports",
    "/v1/model",
    "/v1/quarantine",
    f"/v1/studies/{SOME}/report",
    f"/v1/studies/{SOME}/report/images/1",
    f"/v1/studies/{SOME}/report/pictures/1",
    f"/v1/studies/{SOME}/instances",
    f"/v1/studies/{SOME}/instances/{SOME}/frames/1",
]
GUARDED_PAGES = ["/", "/quarantine", f"/studies/{SOME}"]


@pytest.mark.parametrize("path", GUARDED_API)
def test_api_without_a_key_is_401_with_a_hint(anonymous: TestClient, path: str) -> None:
    answer = anonymous.get(path)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"] == "unauthorized"
    assert "Authorization: Bearer" in answer.json()["hint"]


@pytest.mark.parametrize("path", GUARDED_API)
def test_unknown_key_is_401(anonymous: TestClient, key: str, path: str) -> None:
    assert anonymous.get(path, headers={"Authorization": f"Bearer {key}x"}).status_code == 401
    assert anonymous.get(path, headers={"Authorization": f"Basic {key}"}).status_code == 401
    assert anonymous.get(path, params={"key": key, "access_token": key}).status_code == 401


@pytest.mark.parametrize("path", GUARDED_PAGES)
def test_page_without_a_key_redirects_to_the_login_and_back(anonymous: TestClient, key: str, path: str) -> None:
    away = anonymous.get(path)
    form = anonymous.get(away.headers["Location"])
    destination = re.search(r'name="to" value="([^"]*)"', form.text)
    assert destination is not None
    back = anonymous.post("/login", data={"key": key, "to": destination[1]})

    assert (away.status_code, back.status_code) == (303, 303)
    assert back.headers["Location"] == path


def test_only_the_listed_paths_are_open(app: FastAPI, anonymous: TestClient) -> None:
    # The walk of tests/integration/api/access/test_routes.py covers all methods.
    paths = {path for path, methods in app.openapi()["paths"].items() if "get" in methods}
    described = {re.sub(r"\{(ordinal|frame)\}", "1", re.sub(r"\{\w+_id\}", SOME, path)) for path in paths}

    assert described - set(GUARDED_API) <= OPEN
    # 404: no identity provider is configured. The way back from one shows the login form with the reason.
    found = {path: anonymous.get(path) for path in OPEN}
    assert 'name="key"' in found.pop("/login/callback").text
    assert {answer.status_code for answer in found.values()} <= {200, 404, 405, 503}


def test_revoked_key_is_rejected_at_the_next_request(client: TestClient, database_url: str) -> None:
    before = client.get("/v1/studies").status_code
    with transaction(database_url) as session:
        keys.revoke(session, "reading room")

    assert (before, client.get("/v1/studies").status_code) == (200, 401)


def test_key_without_the_scope_of_a_route_is_403(client: TestClient, database_url: str) -> None:
    with transaction(database_url) as session:
        session.execute(update(ApiKey).values(scopes=[]))
    answer = client.get("/v1/studies")

    assert answer.status_code == 403
    assert "`worklist`" in answer.json()["hint"]


def test_key_is_checked_before_the_parameters(anonymous: TestClient) -> None:
    assert anonymous.get("/v1/studies/not-an-id").status_code == 401


def test_login_sets_an_httponly_samesite_cookie(anonymous: TestClient, key: str) -> None:
    answer = anonymous.post("/login", data={"key": f" {key}\n"})
    cookie = answer.headers["Set-Cookie"]

    assert "prelim_session=" in cookie
    assert key not in str(answer.headers), "the browser never holds the key"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert key not in answer.headers["Location"]
    assert anonymous.get("/v1/studies").status_code == 200


def test_cookie_is_secure_over_tls(app: FastAPI, key: str) -> None:
    answer = TestClient(app, base_url="https://prelim.example", follow_redirects=False).post(
        "/login", data={"key": key}
    )

    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


def test_login_rejects_an_unknown_key_and_does_not_repeat_it(anonymous: TestClient) -> None:
    answer = anonymous.post("/login", data={"key": "prelim_guess"})

    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "unknown, revoked or expired API key" in answer.text
    assert "prelim_guess" not in answer.text


def test_logout_ends_the_session_and_deletes_the_cookie(visitor: TestClient, anonymous: TestClient) -> None:
    assert visitor.get("/").status_code == 200
    stolen = {"prelim_session": visitor.cookies["prelim_session"]}
    answer = visitor.post("/logout")

    assert answer.headers["Location"] == "/login"
    assert visitor.get("/").status_code == 303
    anonymous.cookies.update(stolen)
    assert anonymous.get("/v1/studies").status_code == 401


def test_login_ends_the_earlier_session_of_the_browser(
    visitor: TestClient, anonymous: TestClient, database_url: str
) -> None:
    """On a shared machine the next person logs in without a logout."""
    earlier = {"prelim_session": visitor.cookies["prelim_session"]}
    with transaction(database_url) as session:
        other = keys.create(session, "next reader")
    assert visitor.post("/login", data={"key": "prelim_wrong"}).status_code == 401
    assert visitor.get("/").status_code == 200, "a failed login ends nothing"
    assert visitor.post("/login", data={"key": other}).status_code == 303
    anonymous.cookies.update(earlier)

    assert visitor.get("/v1/studies").status_code == 200
    assert anonymous.get("/v1/studies").status_code == 401


@pytest.mark.parametrize("ended", ["expired", "dated later", "its key revoked", "its key in the cookie"])
def test_session_that_has_ended_is_rejected(visitor: TestClient, key: str, database_url: str, ended: str) -> None:
    before = visitor.get("/v1/studies").status_code
    with transaction(database_url) as session:
        if ended == "expired":
            session.execute(update(PageSession).values(expires_at=func.now() - text("interval '1 s'")))
        elif ended == "dated later":  # by a clock that went back since
            session.execute(update(PageSession).values(expires_at=func.now() + text("interval '300 days'")))
        elif ended == "its key revoked":
            keys.revoke(session, "reading room")
        else:
            visitor.cookies.clear()
            visitor.cookies["prelim_session"] = key

    assert (before, visitor.get("/v1/studies").status_code) == (200, 401)


def test_key_reads_only_studies_of_its_ae_titles(app: FastAPI, arrivals: Arrivals, database_url: str) -> None:
    own, other = arrivals.reported(), arrivals.reported()
    arrivals.sent_by("NORTH", own)
    arrivals.sent_by("SOUTH", other)
    with transaction(database_url) as session:
        key = keys.create(session, "north", ["read", "identity"], ae_titles=["NORTH"])
    client = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    tails = ("", "/report", "/report/images/1", "/identity")
    decided = client.post(f"/v1/studies/{other}/identity", json={"decision": "refuse"})
    client.post("/login", data={"key": key})

    assert [study["id"] for study in client.get("/v1/studies").json()["studies"]] == [str(own)]
    assert {client.get(f"/v1/studies/{own}{tail}").status_code for tail in tails} == {200}
    assert {client.get(f"/v1/studies/{other}{tail}").status_code for tail in tails} == {404}
    assert decided.status_code == 404
    assert client.get(f"/studies/{own}").status_code == 200
    assert client.get(f"/studies/{other}").status_code == 404
    assert str(other) not in client.get("/").text


def test_study_with_an_object_of_another_site_is_hidden(app: FastAPI, arrivals: Arrivals, database_url: str) -> None:
    study = arrivals.reported()
    arrivals.sent_by("NORTH", study)
    with transaction(database_url) as session:
        one, both = (
            keys.create(session, "+".join(sites), ae_titles=sites) for sites in (["NORTH"], ["NORTH", "SOUTH"])
        )
    north, whole = (TestClient(app, headers={"Authorization": f"Bearer {key}"}) for key in (one, both))
    paths = [f"/v1/studies/{study}{tail}" for tail in ("", "/report", "/report/images/1", "/identity", "/events")]
    before = {north.get(path).status_code for path in paths}
    arrivals.late_image(study, ae_title="SOUTH")

    assert before == {200}
    assert {north.get(path).status_code for path in paths} == {404}
    assert north.get("/v1/studies").json()["studies"] == []
    assert north.get("/v1/reports?prompt=report/1").json()["reports"] == []
    assert {whole.get(path).status_code for path in paths} == {200}


@pytest.mark.parametrize("query", ["stat=queued", "State=queued", "modality[]=CT", "state=queued&state=failed"])
def test_unknown_or_repeated_parameter_is_422(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/studies?{query}")

    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert client.get(f"/?{query}").status_code == 422


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "/studies/../x", "/logout", "/\n"]
)
def test_login_redirects_to_this_server_only(anonymous: TestClient, key: str, to: str) -> None:
    assert anonymous.post("/login", data={"key": key, "to": to}).headers["Location"] == "/"


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_form_of_another_site_is_rejected(anonymous: TestClient, key: str, path: str, headers: dict[str, str]) -> None:
    answer = anonymous.post(path, data={"key": key}, headers=headers)

    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://testserver"}])
def test_form_of_this_site_is_accepted(anonymous: TestClient, key: str, headers: dict[str, str]) -> None:
    assert anonymous.post("/login", data={"key": key}, headers=headers).status_code == 303


@pytest.mark.parametrize("form", [{"key": "x" * 2000}, dict.fromkeys("abcdef", "x")])
def test_oversized_form_is_rejected(anonymous: TestClient, form: dict[str, str]) -> None:
    answer = anonymous.post("/login", data=form)

    assert answer.status_code == 400
    assert "Bad request" in answer.text


@pytest.mark.parametrize(
    "path", ["/v1/studies", "/", "/login", "/docs", "/nowhere", "/v1/nowhere", "/static/style.css"]
)
def test_every_response_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_patient_data_is_not_cached(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    paths = ["/", f"/studies/{study_id}", "/v1/studies", f"/v1/studies/{study_id}", f"/v1/studies/{study_id}/report"]

    assert {client.get(path).headers["Cache-Control"] for path in paths} == {"no-store"}


def test_no_page_has_inline_or_external_content(client: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    for path in ("/", f"/studies/{study_id}", "/login", "/docs"):
        text = client.get(path).text
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=", text), path
        assert not re.search(r"(?:src|href|action)=\"(?!/|#)", text), path
