"""Login of people at the identity provider: the whole flow, and every fault of provider, browser and attacker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from pydantic import SecretStr, ValidationError
from sqlalchemy import func, select

from api.app import create_app
from db.models import AuditRow, PageSession
from db.session import transaction
from db.settings import Settings
from tests.integration.api.access.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.integration.api.access.test_tokens import OTHER, encoded, signed_with_the_public_key, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    server = made.serve()
    yield made
    server.shutdown()
    server.server_close()


def settings(database_url: str, folder: Path, provider: IdentityProvider, **changes: Any) -> Settings:
    given = {
        "oidc_issuer": "https://idp.example",
        "oidc_jwks": f"{provider.url}/keys",
        "oidc_scope_claim": "roles",
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SecretStr(SECRET),
        "oidc_authorization_url": f"{provider.url}/authorize?tenant=1",
        "oidc_token_url": f"{provider.url}/token",
        "oidc_redirect_url": "http://localhost/login/callback",
    }
    return Settings(data_dir=folder, database_url=SecretStr(database_url), **given | changes)


@pytest.fixture
def browser(database_url: str, tmp_path: Path, provider: IdentityProvider) -> TestClient:
    return TestClient(create_app(settings(database_url, tmp_path, provider)), follow_redirects=False)


def sent_back(browser: TestClient, provider: IdentityProvider, to: str = "/") -> str:
    """Begin a login and log in at the provider; return the address that the browser is sent back to."""
    begun = browser.get(f"/login/provider?to={to}")
    assert begun.status_code == 303
    assert begun.headers["location"].startswith(f"{provider.url}/authorize?tenant=1&")
    return f"/login/callback?{provider.authorize(begun.headers['location'])}"


def sessions(database_url: str) -> int:
    with transaction(database_url) as session:
        return session.scalar(select(func.count()).select_from(PageSession)) or 0


def test_person_logs_in_and_reads_with_the_scopes_of_the_token(
    browser: TestClient, provider: IdentityProvider, arrivals: Arrivals, database_url: str
) -> None:
    study = arrivals.reported()
    assert "/login/provider?to=/" in browser.get("/login").text
    answer = browser.get(sent_back(browser, provider, f"/studies/{study}"))

    assert answer.status_code == 200
    assert f'content="0; url=/studies/{study}"' in answer.text, "a redirect would lose the cookie"
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert "Doe" in browser.get(f"/studies/{study}").text
    assert browser.get(f"/v1/studies/{study}/report/images/1").status_code == 403
    with transaction(database_url) as session:
        row = session.execute(select(AuditRow).where(AuditRow.action == "login")).scalar_one()
        assert (row.principal, row.status, row.route) == ("person alice", 200, "GET /login/callback")
    browser.post("/logout")
    assert browser.get("/").headers["location"] == "/login?to=%2F"


def test_login_ends_the_earlier_session_of_the_browser(
    browser: TestClient, provider: IdentityProvider, key: str
) -> None:
    """On a shared machine the next person logs in without a logout."""
    browser.post("/login", data={"key": key})
    other = TestClient(browser.app, cookies=dict(browser.cookies))
    refused = browser.get(sent_back(browser, provider).replace("state=", "state=x")).status_code
    kept = other.get("/v1/studies").status_code
    address = sent_back(browser, provider)
    # A browser does not send it with a navigation from the provider's site.
    del browser.cookies["prelim_session"]
    accepted = browser.get(address).status_code

    assert (refused, kept) == (401, 200), "a failed login ends nothing"
    assert (accepted, other.get("/v1/studies").status_code) == (200, 401)
    assert browser.get("/v1/studies").status_code == 200


def test_keys_of_the_provider_are_loaded_once(browser: TestClient, provider: IdentityProvider) -> None:
    assert [browser.get(sent_back(browser, provider)).status_code for _ in range(3)] == [200] * 3
    assert provider.key_requests == 1


NOW = int(time.time())
FAULTS: dict[str, dict[str, Any]] = {
    "wrong nonce": {"claims": {"nonce": "another"}},
    "no nonce": {"claims": {"nonce": None}},
    "expired": {"claims": {"exp": NOW - 60}},
    "no expiry": {"claims": {"exp": None}},
    "no time of issue": {"claims": {"iat": None}},
    "another issuer": {"claims": {"iss": "https://evil.example"}},
    "another audience": {"claims": {"aud": "else"}},
    "several audiences without a party": {"claims": {"aud": [CLIENT, "else"]}},
    "another party": {"claims": {"azp": "else"}},
    "no subject": {"claims": {"sub": None}},
    "another key": {"sign": lambda claims: jwt.encode({"alg": "RS256", "kid": "k1"}, claims, OTHER)},
    "alg none": {"sign": lambda _: unsigned()},
    "HMAC with the public key": {"sign": lambda _: signed_with_the_public_key()},
    "no token": {"sign": lambda _: None},
    "no JSON": {"sign": lambda _: encoded(b"x") + ".b.c"},
}


def test_faulty_token_begins_no_session(browser: TestClient, provider: IdentityProvider, database_url: str) -> None:
    found = {}
    for fault, changes in FAULTS.items():
        provider.claims, provider.sign = changes.get("claims", {}), changes.get("sign")
        answer = browser.get(sent_back(browser, provider))
        found[fault] = answer.status_code, "Login failed" in answer.text, "session" in answer.headers["set-cookie"]

    assert found == dict.fromkeys(FAULTS, (401, True, False))
    assert sessions(database_url) == 0


def test_code_is_used_once_and_only_by_the_browser_that_began(
    browser: TestClient, provider: IdentityProvider, database_url: str
) -> None:
    other = TestClient(browser.app, follow_redirects=False)
    address = sent_back(browser, provider)
    stolen = other.get(address)
    sent_back(other, provider)
    mixed = other.get(address)
    kept = dict(browser.cookies)
    first = browser.get(address)
    again = browser.get(address)
    replayed = TestClient(browser.app, follow_redirects=False, cookies=kept).get(address)

    assert (stolen.status_code, mixed.status_code) == (401, 401), "without the cookie, and with that of another login"
    assert first.status_code == 200
    assert (again.status_code, replayed.status_code) == (401, 401)
    assert sessions(database_url) == 1


def test_answer_of_another_provider_or_with_another_state_is_401(
    browser: TestClient, provider: IdentityProvider
) -> None:
    address = sent_back(browser, provider)
    state = address.partition("state=")[2]
    answers = [
        browser.get(sent_back(browser, provider).replace("idp.example", "evil.example")),
        browser.get(sent_back(browser, provider).replace("state=", "state=x")),
        browser.get(sent_back(browser, provider).partition("&")[0]),
        browser.get(address.replace(state, sent_back(browser, provider).partition("state=")[2])),
        browser.get(f"/login/callback?error=access_denied&state={state}"),
        browser.get("/login/callback"),
    ]

    assert [answer.status_code for answer in answers] == [401] * 6
    assert provider.codes, "no code was sent to the provider"


def test_person_without_a_scope_is_403(browser: TestClient, provider: IdentityProvider, database_url: str) -> None:
    provider.claims = {"roles": ["admin"]}

    assert browser.get(sent_back(browser, provider)).status_code == 403
    assert sessions(database_url) == 0


def test_provider_that_fails_begins_no_session(
    browser: TestClient, provider: IdentityProvider, database_url: str
) -> None:
    found = []
    for provider.status in (302, 400, 500, 1000):  # the last is no status of HTTP
        found.append(browser.get(sent_back(browser, provider)).status_code)

    assert found == [401, 401, 503, 503]
    assert sessions(database_url) == 0


def test_person_reads_only_studies_of_the_listed_ae_titles(
    database_url: str, tmp_path: Path, provider: IdentityProvider, arrivals: Arrivals
) -> None:
    study = arrivals.reported()
    arrivals.sent_by("NORTH", study)
    app = create_app(settings(database_url, tmp_path, provider, oidc_ae_titles_claim="sites"))
    found = {}
    for site in ("NORTH", "SOUTH"):
        browser = TestClient(app, follow_redirects=False)
        provider.claims = {"sites": [site]}
        assert browser.get(sent_back(browser, provider)).status_code == 200
        found[site] = browser.get(f"/studies/{study}").status_code
    provider.claims = {}

    assert found == {"NORTH": 200, "SOUTH": 404}
    assert browser.get(sent_back(browser, provider)).status_code == 403, "without the list nothing is shown"


def test_target_on_another_site_is_replaced(browser: TestClient, provider: IdentityProvider) -> None:
    answer = browser.get(sent_back(browser, provider, "//evil.example/"))

    assert 'content="0; url=/"' in answer.text


def test_without_a_client_there_is_no_login_at_a_provider(anonymous: TestClient) -> None:
    assert "/login/provider" not in anonymous.get("/login").text
    assert anonymous.get("/login/provider").status_code == 404
    assert anonymous.get("/login/callback?code=x&state=y").status_code == 401


def test_incomplete_or_unprotected_settings_are_refused(
    database_url: str, tmp_path: Path, provider: IdentityProvider
) -> None:
    for changes in (
        {"oidc_token_url": None},
        {"oidc_token_url": "http://idp.example/token"},
        {"oidc_redirect_url": "https://prelim.example/"},
        {"oidc_login_scope": "profile"},
    ):
        with pytest.raises(ValidationError):
            settings(database_url, tmp_path, provider, **changes)
