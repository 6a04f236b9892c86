"""Log people in at an OpenID Connect provider: authorization code flow with PKCE (RFC 7636), state and nonce."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import structlog

from api.access.tokens import LOAD_SECONDS, MAX_BYTES, UNREADABLE
from api.errors import ApiError, ErrorCode, Problem, Unauthorized

if TYPE_CHECKING:
    from api.access.tokens import Tokens
    from db.access.principals import Principal
    from db.settings import Settings

log = structlog.get_logger()

#: Characters of the random text of an attempt: 32 bytes in base64.
SECRET_CHARACTERS = 43
#: Seconds for a login at the provider, second factor included.
VALID_SECONDS = 600
#: Status from which the fault is the provider's.
SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Attempt:
    """Login of one browser: *secret* is in a cookie of this browser only; state, nonce and verifier follow from it."""

    secret: str = field(repr=False)
    #: Page to open after the login.
    to: str
    #: Digest of the browser's earlier session, or empty: its cookie is not sent with the way back, which ends it.
    earlier: str = field(default="", repr=False)

    @classmethod
    def begun(cls, to: str, earlier: str) -> Attempt:
        """Return a new attempt."""
        return cls(secrets.token_urlsafe(32), to, earlier)

    @classmethod
    def of_cookie(cls, text: str) -> Attempt:
        """Return the attempt of a cookie; raises Unauthorized if it is missing or malformed."""
        if len(text) < SECRET_CHARACTERS or not text.isascii():
            raise Unauthorized("the login has ended or began in another browser: begin it again")
        earlier, slash, path = text[SECRET_CHARACTERS:].partition("/")
        return cls(text[:SECRET_CHARACTERS], slash + path, earlier)

    @property
    def cookie(self) -> str:
        """Text of the cookie."""
        return self.secret + self.earlier + self.to

    @property
    def state(self) -> str:
        """Binds the answer of the provider to this browser."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """Binds the ID token to this attempt."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """Binds the code to this attempt: the provider gets its SHA-256 first."""
        return self._derived("verifier")

    def check(self, state: str) -> None:
        """Raise Unauthorized if *state* is not that of this attempt."""
        if not hmac.compare_digest(self.state.encode(), state.encode()):
            raise Unauthorized("the login began in another browser or window: begin it again")

    def _derived(self, use: str) -> str:
        return _encoded(hmac.digest(self.secret.encode(), use.encode(), "sha256"))


class Provider:
    """The configured provider; *tokens* verifies what it signs."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._api = settings.api
        self._tokens = tokens

    @property
    def is_configured(self) -> bool:
        """True if people can log in at the provider."""
        return self._api.oidc_client_id is not None

    def address(self, attempt: Attempt) -> str:
        """Return the address at which the browser begins a login."""
        challenge = _encoded(hashlib.sha256(attempt.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._api.oidc_client_id,
            "redirect_uri": self._api.oidc_redirect_url,
            "scope": self._api.oidc_login_scope,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        url = str(self._api.oidc_authorization_url)
        return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"

    def person(self, attempt: Attempt, code: str, issuer: str | None) -> Principal:
        """Return the person that a code of the provider stands for.

        *issuer* is the parameter `iss` of the answer, if it has one (RFC 9207). Raises Unauthorized, Forbidden, or
        ApiError 503 if the provider cannot be reached.
        """
        if issuer is not None and issuer != self._api.oidc_issuer:
            raise Unauthorized("the answer is of another identity provider: begin the login again")
        return self._tokens.verify_login(self._id_token(attempt, code), attempt.nonce)

    def _id_token(self, attempt: Attempt, code: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._api.oidc_redirect_url,
            "client_id": self._api.oidc_client_id,
            "code_verifier": attempt.verifier,
        }
        found = _sent(str(self._api.oidc_token_url), urlencode(form).encode(), self._headers())
        token = found.get("id_token")
        if not isinstance(token, str):
            raise Unauthorized("the identity provider sent no ID token: its client needs the scope `openid`")
        return token

    def _headers(self) -> dict[str, str]:
        """Return the headers of a request for tokens, with the secret of the client, if any (RFC 6749 2.3.1)."""
        headers = {"Accept": "application/json"}
        if self._api.oidc_client_secret is not None:
            pair = f"{quote(str(self._api.oidc_client_id))}:{quote(self._api.oidc_client_secret.get_secret_value())}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: code, verifier and secret are for the configured address only."""

    def redirect_request(self, *_: Any) -> None:
        """Return no further request."""


def _sent(url: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """Return the JSON object with which the provider answers; raises Unauthorized or ApiError 503."""
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the settings permit https and loopback only
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=LOAD_SECONDS) as response:
            found = json.loads(response.read(MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            log.warning("identity_provider.rejected", status=error.code)
        if error.code >= SERVER_ERROR:
            raise _unreachable() from None
        raise Unauthorized("the identity provider does not accept the login: begin it again") from None
    except UNREADABLE as error:
        log.warning("identity_provider.unreachable", error=type(error).__name__)
        raise _unreachable() from None
    if not isinstance(found, dict):
        raise _unreachable()
    return found


def _unreachable() -> ApiError:
    hint = "try again in a moment; the operator finds the cause in the log of `prelim serve`"
    problem = Problem(error=ErrorCode.UNAVAILABLE, message="the identity provider is unreachable", hint=hint)
    return ApiError(503, problem, {"Retry-After": "5"})


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
