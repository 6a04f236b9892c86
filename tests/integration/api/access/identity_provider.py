"""A small OpenID Connect provider on loopback, with state and with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt

from tests.integration.api.access.test_tokens import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT, SECRET = "prelim-page", "s3cret&"


@dataclass
class IdentityProvider:
    """Codes are valid once, for the client, address and verifier that they were requested with."""

    #: Changes the claims of the next ID tokens.
    claims: dict[str, Any] = field(default_factory=dict)
    #: Makes the next ID tokens from their claims; None: signed by KEY.
    sign: Callable[[dict[str, Any]], str] | None = None
    #: Status of the next answers of the token endpoint.
    status: int = 200
    key_requests: int = 0
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    url: str = ""

    def authorize(self, address: str) -> str:
        """Log the user in, who was sent to *address*; return the query with which the browser is sent back."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert (query["client_id"], query["response_type"]) == (CLIENT, "code")
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"code={code}&state={query['state']}&iss=https://idp.example"

    def answer(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of the token endpoint."""
        if self.status != 200:
            return self.status, {"error": "server_error"}
        asked = self.codes.pop(form["code"], None)
        basic = base64.b64encode(b"prelim-page:s3cret%26").decode()
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
            or authorization != f"Basic {basic}"
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": "https://idp.example", "aud": CLIENT, "sub": "alice", "iat": now, "exp": now + 300}
        claims |= {"nonce": asked["nonce"], "roles": ["prelim.worklist", "prelim.reports"]} | self.claims
        kept = {name: value for name, value in claims.items() if value is not None}
        token = self.sign(kept) if self.sign else jwt.encode({"alg": "RS256", "kid": "k1"}, kept, KEY)
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": token}

    def serve(self) -> ThreadingHTTPServer:
        """Start the server on a free port."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/authorize"):
                    self._send_page(provider.authorize(self.path))
                    return
                provider.key_requests += 1
                self._send(200, {"keys": [KEY.as_dict(private=False)]})

            def _send_page(self, answer: str) -> None:
                """Send the page on which a user logs in: its link leads back."""
                address = parse_qs(urlsplit(self.path).query)["redirect_uri"][0]
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(f'<a id="back" href="{address}?{answer.replace("&", "&amp;")}">Alice</a>'.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._send(*provider.answer(form, self.headers.get("Authorization", "")))

            def _send(self, status: int, body: dict[str, Any]) -> None:
                encoded = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server
