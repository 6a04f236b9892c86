"""Sign requests to S3 with AWS Signature Version 4 (Amazon S3 API Reference, "Authenticating Requests")."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

ALGORITHM = "AWS4-HMAC-SHA256"
#: SHA-256, in hex, of no bytes.
EMPTY = hashlib.sha256().hexdigest()


class Credentials(NamedTuple):
    """Key of an account of the storage, and the region for which its requests are signed."""

    access_key: str
    secret_key: str
    region: str

    def __repr__(self) -> str:
        """Return the name of the type only: a trace must not show the key."""
        return type(self).__name__


def encoded_path(path: str) -> str:
    """Return a path as it stands in the request line and in the signature."""
    return quote(path, safe="/-_.~")


def encoded_query(parameters: Mapping[str, str]) -> str:
    """Return the parameters of a request, sorted as the signature requires."""
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(parameters.items())
    )


def signed(
    credentials: Credentials,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    at: dt.datetime,
) -> dict[str, str]:
    """Return *headers* with time and signature; *path* and *query* are encoded, `x-amz-content-sha256` is given."""
    time, scope = f"{at:%Y%m%dT%H%M%SZ}", f"{at:%Y%m%d}/{credentials.region}/s3/aws4_request"
    complete = {**headers, "x-amz-date": time}
    lowered = {name.lower(): " ".join(value.split()) for name, value in complete.items()}
    names = ";".join(sorted(lowered))
    lines = "".join(f"{name}:{lowered[name]}\n" for name in sorted(lowered))
    request = "\n".join((method, path, query, lines, names, lowered["x-amz-content-sha256"]))
    text = "\n".join((ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, text).hex()
    authorization = (
        f"{ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**complete, "Authorization": authorization}


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
