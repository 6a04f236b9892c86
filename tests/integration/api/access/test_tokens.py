"""Tokens of people: forged, foreign and expired ones are refused, and rates are limited."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from sqlalchemy import select

from api.access import rate_limits
from api.app import create_app
from db.models import AuditRow
from db.session import transaction
from db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals

KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "k1"})
CLAIMS = {
    "iss": "https://idp.example",
    "aud": "prelim",
    "sub": "alice",
    "scope": "openid prelim.worklist prelim.reports",
}


def token(key: Any = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    body = CLAIMS | {"exp": int(time.time()) + 300} | claims
    kept = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(header or {"alg": "RS256", "kid": "k1"}, kept, key)


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def unsigned(algorithm: str = "none") -> str:
    parts = {"alg": algorithm, "kid": "k1"}, CLAIMS | {"exp": int(time.time()) + 300}
    return ".".join(encoded(json.dumps(part).encode()) for part in parts) + "."


def signed_with_the_public_key() -> str:
    plain = unsigned("HS256").removesuffix(".")
    return f"{plain}.{encoded(hmac.digest(KEY.as_pem(private=False), plain.encode(), 'sha256'))}"


def client(database_url: str, folder: Path, **settings: Any) -> TestClient:
    (folder / "jwks.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    given = {"oidc_issuer": CLAIMS["iss"], "oidc_audience": "prelim", "oidc_jwks": str(folder / "jwks.json")}
    return TestClient(create_app(Settings(data_dir=folder, database_url=SecretStr(database_url), **given | settings)))


def status(client: TestClient, text: str, path: str = "/v1/studies") -> int:
    return client.get(path, headers={"Authorization": f"Bearer {text}"}).status_code


def test_person_reads_with_a_token_and_its_scopes(database_url: str, tmp_path: Path, arrivals: Arrivals) -> None:
    reader, study = client(database_url, tmp_path), arrivals.reported()

    assert status(reader, token()) == 200
    assert status(reader, token(), f"/v1/studies/{study}/report") == 200
    assert status(reader, token(), f"/v1/studies/{study}/report/images/1") == 403
    assert status(reader, token(scope="system/DiagnosticReport.rs"), f"/v1/studies/{study}/report/images/1") == 200
    assert status(reader, token(scope=["admin", "worklist", 7])) == 403, "general roles of the provider"
    with transaction(database_url) as session:
        assert session.scalars(select(AuditRow.principal).limit(1)).one() == "person alice"


def test_forged_foreign_and_expired_tokens_are_401(database_url: str, tmp_path: Path) -> None:
    reader = client(database_url, tmp_path)
    forged = {
        "another key": token(OTHER),
        "none": unsigned(),
        "HMAC with the public key": signed_with_the_public_key(),
        "unknown key id": token(header={"alg": "RS256", "kid": "k2"}),
        "no key id": token(header={"alg": "RS256"}),
        "expired": token(exp=int(time.time()) - 60),
        "no expiry": token(exp=None),
        "another issuer": token(iss="https://evil.example"),
        "another audience": token(aud="else"),
        "no audience": token(aud=None),
        "no subject": token(sub=None),
        "not yet valid": token(nbf=int(time.time()) + 300),
        "line in the subject": token(sub="a\nb"),
        "changed": token()[:-4] + "AAAA",
        "no JSON": "a.b.c",
    }

    assert {name: status(reader, text) for name, text in forged.items()} == dict.fromkeys(forged, 401)


def test_token_is_401_without_a_provider(anonymous: TestClient) -> None:
    assert status(anonymous, token()) == 401


def test_token_reads_only_studies_of_its_ae_titles(database_url: str, tmp_path: Path, arrivals: Arrivals) -> None:
    reader = client(database_url, tmp_path, oidc_ae_titles_claim="sites")
    study = arrivals.reported()
    arrivals.sent_by("NORTH", study)
    paths = f"/v1/studies/{study}", f"/v1/studies/{study}/report"

    assert [status(reader, token(sites=["NORTH"]), path) for path in paths] == [200, 200]
    assert [status(reader, token(sites=["SOUTH"]), path) for path in paths] == [404, 404]
    assert [status(reader, token(), path) for path in paths] == [403, 403]


def test_provider_without_keys_is_503(database_url: str, tmp_path: Path) -> None:
    assert status(client(database_url, tmp_path, oidc_jwks=str(tmp_path / "missing")), token()) == 503


def test_failed_logins_and_requests_are_limited(
    database_url: str,
    broker_url: str,
    key: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A Redis that a busy machine delays by 0.2 s would leave requests without a limit for 5 s.
    monkeypatch.setattr(rate_limits, "TIMEOUT_SECONDS", 10.0)
    limits = {"failed_logins_per_minute": 2, "requests_per_minute": 3, "broker_url": SecretStr(broker_url)}
    reader = client(database_url, tmp_path, **limits)
    failed = [reader.post("/login", data={"key": "prelim_x"}) for _ in range(3)]
    valid = [status(reader, key) for _ in range(4)]

    assert [answer.status_code for answer in failed] == [401, 401, 429]
    assert 1 <= int(failed[2].headers["Retry-After"]) <= 60
    assert valid == [200, 200, 200, 429], "a valid key is accepted from the same address"
    assert "testclient" in capsys.readouterr().out


@pytest.mark.parametrize("broker", [None, SecretStr("redis://127.0.0.1:9/0")])
def test_nothing_is_limited_without_redis(
    database_url: str, tmp_path: Path, key: str, broker: SecretStr | None
) -> None:
    reader = client(database_url, tmp_path, requests_per_minute=1, broker_url=broker)

    assert [status(reader, key) for _ in range(3)] == [200, 200, 200]
