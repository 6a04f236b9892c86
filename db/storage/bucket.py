"""Put, read, list and delete objects of one bucket; an object is written once and never replaced."""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import hashlib
import http.client
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from db.storage.errors import Missing, Refused, Unavailable
from db.storage.s3_connections import Connections, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from db.storage.s3_connections import Answer
    from db.storage.signing import Credentials

#: Bytes from which an object is sent in parts, and of each part: S3 allows 10,000 parts.
MULTIPART, PART = 64 << 20, 16 << 20
#: Metadata of each object with the SHA-256, in hex, of its bytes: the ETag of an object in parts is no digest.
DIGEST = "x-amz-meta-sha256"
CHECKSUM, CHECKSUM_TYPE = "x-amz-checksum-sha256", "x-amz-checksum-algorithm"
OK, GONE, FAILED, CONFLICT = (200, 204), 404, 412, 409
#: Parameters of the next page of uploads, and the elements of a page that have their values after "Next".
MARKERS = {"key-marker": "KeyMarker", "upload-id-marker": "UploadIdMarker"}
#: Methods to which 404 is an answer about the object, and no failure.
MAY_MISS = ("HEAD", "GET", "DELETE")


class Stored(NamedTuple):
    """Size of an object, and SHA-256, in hex, of its bytes when it was put; empty if another program put it."""

    size: int
    sha256: str


class Listed(NamedTuple):
    """Key and size of an object."""

    key: str
    size: int
    modified_at: dt.datetime


class Upload(NamedTuple):
    """Upload in parts that was begun and neither completed nor ended; the time is None if the service gives none."""

    key: str
    upload_id: str
    begun_at: dt.datetime | None


class Bucket:
    """Objects of a bucket whose keys begin with *prefix*, which is empty or ends with a slash."""

    def __init__(
        self, place: Place, name: str, prefix: str, credentials: Credentials, authorities: Path | None = None
    ) -> None:
        self.name = f"s3://{name}/{prefix} at {place}"
        self._prefix = prefix
        self._connections = Connections(place, credentials, authorities)

    def put(self, key: str, file: IO[bytes], size: int, sha256: str) -> bool:
        """Store *file*, whose digest the service verifies; return False if the key has an object, which stays.

        Raises Unavailable, also if the file is not the one of the digest.
        """
        if size > MULTIPART:
            return self._put_parts(key, file, sha256)
        headers = {
            "If-None-Match": "*",
            "Content-Length": str(size),
            "x-amz-content-sha256": sha256,
            CHECKSUM: _base64(sha256),
            DIGEST: sha256,
        }
        return self._is_new(self._send("PUT", key, headers=headers, body=file))

    def head(self, key: str) -> Stored | None:
        """Return what the bucket has under a key; None if it has nothing. Raises Unavailable."""
        answer = self._send("HEAD", key)
        if answer.status == GONE:
            # It has no body that would tell a missing bucket from a missing object.
            self.require()
            return None
        return Stored(int(answer.headers.get("content-length", "0")), answer.headers.get(DIGEST, ""))

    def get(self, key: str, target: Callable[[bytes], object]) -> None:
        """Give the bytes of an object to *target*; raises Missing, Unavailable (*target* then has a part of them)."""
        answer = self._send("GET", key, target=target)
        if answer.status == GONE:
            self.require()
            raise Missing(f"{self.name} has no object {key}")

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if there is none. Raises Unavailable."""
        if self._send("DELETE", key).status == GONE:
            self.require()

    def objects(self, after: str = "") -> Iterator[Listed]:
        """Yield the objects in the order of their keys, without the prefix; raises Unavailable."""
        query = {"list-type": "2", "prefix": self._prefix, "encoding-type": "url"}
        if after:
            query["start-after"] = self._prefix + after
        more = True
        while more:
            page = _element(self._send("GET", "", query, whole=True))
            yield from self._listed(page)
            token = page.findtext("{*}NextContinuationToken") or ""
            more = page.findtext("{*}IsTruncated") == "true" and bool(token)
            query["continuation-token"] = token

    def uploads(self, key: str = "") -> Iterator[Upload]:
        """Yield the uploads in parts whose keys begin with *key*, without the prefix; raises Unavailable."""
        query = {"uploads": "", "prefix": self._prefix + key}
        more = True
        while more:
            page = _element(self._send("GET", "", query, whole=True))
            yield from self._begun(page)
            markers = {name: page.findtext(f"{{*}}Next{tag}") or "" for name, tag in MARKERS.items()}
            more = page.findtext("{*}IsTruncated") == "true" and bool(markers["key-marker"])
            query |= markers

    def abort(self, upload: Upload) -> None:
        """Delete the parts of an upload; nothing happens if it has ended. Raises Unavailable."""
        self._send("DELETE", upload.key, {"uploadId": upload.upload_id})

    def abort_parts(self, key: str) -> None:
        """Delete the parts that interrupted uploads of this object have left; raises Unavailable."""
        # By its whole key: MinIO lists no others.
        for upload in [upload for upload in self.uploads(key) if upload.key == key]:
            self.abort(upload)

    def require(self) -> Answer:
        """Raise Unavailable if the bucket cannot be listed; return the answer."""
        return self._send("GET", "", {"list-type": "2", "max-keys": "1", "prefix": self._prefix}, whole=True)

    def clock_difference(self) -> float:
        """Return the seconds by which the clock of the service is ahead of this one; raises Unavailable."""
        before = dt.datetime.now(dt.UTC)
        given = self.require().headers.get("date", "")
        try:
            at = email.utils.parsedate_to_datetime(given)
        except ValueError as error:
            raise Unavailable(f"{self.name} gives no time of its clock") from error
        return (at - before).total_seconds()

    def refuses(self, key: str, body: bytes, sha256: str) -> bool:
        """Return whether the service refuses to store *body* under the checksum of another one; raises Unavailable."""
        content = {"x-amz-content-sha256": hashlib.sha256(body).hexdigest(), CHECKSUM: _base64(sha256)}
        answer = self._connections.request("PUT", self._prefix + key, headers=content, body=body)
        return answer.status == http.client.BAD_REQUEST

    def _put_parts(self, key: str, file: IO[bytes], sha256: str) -> bool:
        if self.head(key) is not None:
            return False
        self.abort_parts(key)
        begun = self._send("POST", key, {"uploads": ""}, {CHECKSUM_TYPE: "SHA256", DIGEST: sha256})
        upload = {"uploadId": _element(begun).findtext("{*}UploadId") or ""}
        parts = "".join(
            self._put_part(key, upload, number, part) for number, part in enumerate(_parts(file, sha256), 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        headers = {"If-None-Match": "*", "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
        ended = self._send("POST", key, upload, headers, body)
        if not self._is_new(ended):
            self._send("DELETE", key, upload)
            return False
        if _element(ended).tag.endswith("Error"):  # S3 may send it after the status 200
            raise Unavailable(f"{self.name} fails: {ended.code}")
        return True

    def _put_part(self, key: str, upload: dict[str, str], number: int, part: bytes) -> str:
        """Send one part and return its element of the list that completes the object."""
        digest = hashlib.sha256(part).hexdigest()
        headers = {"x-amz-content-sha256": digest, CHECKSUM: _base64(digest)}
        answer = self._send("PUT", key, {**upload, "partNumber": str(number)}, headers, part)
        tag = answer.headers.get("etag", "").strip('"')
        sums = f"<ETag>&quot;{tag}&quot;</ETag><ChecksumSHA256>{_base64(digest)}</ChecksumSHA256>"
        return f"<Part><PartNumber>{number}</PartNumber>{sums}</Part>"

    def _listed(self, page: ET.Element) -> Iterator[Listed]:
        for found in page.iterfind("{*}Contents"):
            key = unquote(found.findtext("{*}Key") or "")
            size, modified = found.findtext("{*}Size") or "0", found.findtext("{*}LastModified") or ""
            yield Listed(key.removeprefix(self._prefix), int(size), dt.datetime.fromisoformat(modified))

    def _begun(self, page: ET.Element) -> Iterator[Upload]:
        for found in page.iterfind("{*}Upload"):
            key, upload_id = found.findtext("{*}Key") or "", found.findtext("{*}UploadId") or ""
            yield Upload(key.removeprefix(self._prefix), upload_id, _moment(found.findtext("{*}Initiated") or ""))

    def _is_new(self, answer: Answer) -> bool:
        """Return whether a conditional write stored an object; raises Unavailable if another one is writing now."""
        if answer.status == CONFLICT:
            raise Unavailable(f"{self.name} is being written by another process")
        return answer.status != FAILED

    def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] = b"",
        target: Callable[[bytes], object] | None = None,
        *,
        whole: bool = False,
    ) -> Answer:
        """Send a request about one object, or the *whole* bucket; raises Unavailable for an answer it does not know."""
        path = "" if whole else self._prefix + key
        answer = self._connections.request(method, path, query, headers, body, target)
        is_missing_object = answer.status == GONE and not whole and answer.code != "NoSuchBucket"
        # What a write answers with 404, or a deletion with 409, has not happened.
        is_condition = answer.status in (FAILED, CONFLICT) and "If-None-Match" in (headers or {})
        if answer.status in OK or is_condition or (is_missing_object and method in MAY_MISS):
            return answer
        raise Refused(f"{self.name} refuses the request: {answer.status} {answer.code}".rstrip())


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _parts(file: IO[bytes], sha256: str) -> Iterator[bytes]:
    """Yield the parts of a file; raises Unavailable at its end if its digest is another one."""
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(PART):
        digest.update(part)
        yield part
    if digest.hexdigest() != sha256:
        raise Unavailable("the file changed while it was sent")


def _element(answer: Answer) -> ET.Element:
    """Return the XML of an answer; raises Unavailable if it is something else."""
    try:
        return ET.fromstring(answer.body)  # noqa: S314 - expat limits entities; the service holds the objects anyway
    except ET.ParseError as error:
        raise Unavailable("the object storage answers with something other than XML") from error
