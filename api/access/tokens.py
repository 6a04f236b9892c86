"""Verify tokens of people: JWTs of an OpenID Connect provider, with pinned algorithms and required claims."""

from __future__ import annotations

import ipaddress
import json
import re
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from api.errors import ApiError, ErrorCode, Forbidden, Problem, Unauthorized
from db.access.page_sessions import PERSON
from db.access.principals import READS, SCOPES, Principal
from db.errors import ConfigurationError
from db.log_budget import LogBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings

log = structlog.get_logger()

#: Asymmetric only: with HMAC among them, the provider's public key would be a secret that everybody has.
ALGORITHMS = ("RS256", "PS256", "ES256")
#: Seconds by which the clocks of provider and server may differ.
LEEWAY_SECONDS = 30
#: Seconds for which the provider's keys are kept, and after which an unknown key id may load them again.
CACHE_SECONDS, RELOAD_SECONDS = 600, 60
#: Seconds to wait for the provider, and bytes of its answer.
LOAD_SECONDS, MAX_BYTES = 3, 262_144
#: Errors of a request to the provider: no connection, no HTTP, no JSON.
UNREADABLE = (OSError, HTTPException, ValueError)
#: Our scopes in a token have this prefix, so that a general role `admin` of the provider gives no right here.
PREFIX = "prelim."
#: SMART App Launch scopes that permit reading.
SMART = frozenset(("system/DiagnosticReport.rs", "user/DiagnosticReport.rs"))
#: Characters of a subject: it is stored in the audit log.
_SUBJECT = re.compile(r"[!-~]{1,200}")


def is_token(text: str) -> bool:
    """Return whether a bearer credential has the form of a JWT; a key has no dot."""
    return text.count(".") == 2  # noqa: PLR2004 - header, payload and signature


class Tokens:
    """Tokens of the configured provider; verifies none if no provider is configured."""

    def __init__(self, settings: Settings) -> None:
        self._api = settings.api
        self._log_budget = LogBudget("tokens.not_logged")
        self._lock = threading.Lock()
        self._keys: dict[str, jwk.Key] = {}
        self._loaded = float("-inf")

    def verify(self, token: str) -> Principal:
        """Return the person named by a token; raises Unauthorized, Forbidden, or ApiError 503 without the keys."""
        return self._person(self._claims(token, self._api.oidc_audience))

    def verify_login(self, token: str, nonce: str) -> Principal:
        """Return the person named by the ID token of a login with *nonce*; raises as `verify`."""
        client = self._api.oidc_client_id
        claims = self._claims(token, client, nonce={"essential": True, "value": nonce}, iat={"essential": True})
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        # The party that it was issued to (OpenID Connect Core 3.1.3.7).
        if claims.get("azp", None if several else client) != client:
            raise self._rejected("azp")
        return self._person(claims)

    def _claims(self, token: str, audience: str | None, **required: Any) -> dict[str, Any]:
        """Return the claims of a token for *audience*, all verified; raises Unauthorized or ApiError 503."""
        if self._api.oidc_issuer is None or audience is None or self._api.oidc_jwks is None:
            raise Unauthorized("tokens are not accepted here: no identity provider is configured")
        claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._api.oidc_issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
            **required,
        )
        try:
            found = jwt.decode(token, self._key, algorithms=list(ALGORITHMS)).claims
            claims.validate(found)
        except (JoseError, ValueError, TypeError) as error:
            # Not its text: that may quote claims.
            raise self._rejected(type(error).__name__) from None
        return found

    def _rejected(self, cause: str) -> Unauthorized:
        """Log the cause, which quotes no claim; return the error."""
        if self._log_budget.allows():
            log.info("token.rejected", error=cause)
        return _invalid()

    def _person(self, claims: dict[str, Any]) -> Principal:
        subject = str(claims["sub"])
        if not _SUBJECT.fullmatch(subject):
            raise Unauthorized("the token has an invalid subject")
        return Principal(
            PERSON, subject, frozenset(_scopes(claims.get(self._api.oidc_scope_claim))), self._sites(claims)
        )

    def _sites(self, claims: dict[str, Any]) -> frozenset[str] | None:
        """Return the AE titles of a token; raises Forbidden if the configured claim is missing."""
        name = self._api.oidc_ae_titles_claim
        if name is None:
            return None
        given = claims.get(name)
        if not isinstance(given, list) or not all(isinstance(title, str) for title in given):
            raise Forbidden(f"the token has no list `{name}`", "ask the operator of the identity provider")
        return frozenset(given)

    def _key(self, token: Any) -> jwk.Key:
        """Return the provider's key that the token names; raises ValueError."""
        name = token.headers().get("kid")
        age = time.monotonic() - self._loaded
        if age > CACHE_SECONDS or (name not in self._keys and age > RELOAD_SECONDS):
            self._load()
        if name not in self._keys:
            raise ValueError("unknown key id")
        return self._keys[name]

    def _load(self) -> None:
        """Load the keys; old ones are kept if the provider cannot be reached. Raises ApiError 503 without any."""
        with self._lock:
            self._loaded = time.monotonic()
            try:
                self._keys = dict(_public_keys(_read(str(self._api.oidc_jwks))))
            except (*UNREADABLE, KeyError, TypeError, JoseError) as error:
                log.warning("identity_provider.unreachable", error=type(error).__name__)
                if not self._keys:
                    raise _unavailable() from error


def _invalid() -> Unauthorized:
    return Unauthorized("the token is invalid or expired")


def _unavailable() -> ApiError:
    hint = "try again in a moment; the operator finds the cause in the log of `prelim serve`"
    problem = Problem(error=ErrorCode.UNAVAILABLE, message="keys of the identity provider are unreachable", hint=hint)
    return ApiError(503, problem, {"Retry-After": str(RELOAD_SECONDS)})


def _read(place: str) -> dict[str, Any]:
    """Return the JSON Web Key Set in a file or at a URL."""
    parts = urlsplit(place)
    if parts.scheme not in {"http", "https"}:
        text = Path(place).read_bytes()
    else:
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ConfigurationError("PRELIM_OIDC_JWKS: expected https, or http on loopback")
        with urllib.request.urlopen(place, timeout=LOAD_SECONDS) as response:  # noqa: S310 - http and https only
            text = response.read(MAX_BYTES)
    found: dict[str, Any] = json.loads(text)
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public_keys(key_set: dict[str, Any]) -> Iterator[tuple[str, jwk.Key]]:
    """Yield the asymmetric keys by id; a symmetric key in the set is not used."""
    for each in key_set["keys"]:
        if each.get("kty") in {"RSA", "EC"} and each.get("use", "sig") == "sig":
            yield str(each["kid"]), jwk.import_key(each)


def _scopes(claim: object) -> Iterator[str]:
    """Yield our scopes among those of a token: a text with spaces, or a list."""
    given = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    for each in given:
        if each in SMART:
            yield from READS
        elif isinstance(each, str) and each.removeprefix(PREFIX) in SCOPES and each.startswith(PREFIX):
            yield each.removeprefix(PREFIX)
