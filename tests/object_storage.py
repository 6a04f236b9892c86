"""An S3 service with state on a free port of this machine, with faults; and SeaweedFS as a real one.

The fake keeps objects in memory, honours If-None-Match, checks SHA-256 checksums, and can be away, slow or wrong.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import http.client
import itertools
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from db.settings import Settings
from db.storage import object_files
from db.storage.errors import StorageError
from tests.polling import wait_until
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from signal import Signals

BUCKET, PREFIX = "test", "prelim"
ACCESS, SECRET = "key", "secret-key"
XML = '<?xml version="1.0" encoding="UTF-8"?>'
#: The port of SeaweedFS for gRPC is so much higher than that for HTTP.
GRPC = 10_000
#: Ports that a server has, or will have.
_given: set[int] = set()


@dataclass
class Put:
    """An object with the metadata of its PUT."""

    body: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat())


@dataclass
class Begun:
    """An upload in parts."""

    key: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    parts: dict[int, bytes] = field(default_factory=dict)
    begun: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat())


class FakeStorage(ThreadingHTTPServer):
    """Objects by key, and the faults of the next requests; closed connections refuse as a stopped service does."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]
        self.objects: dict[str, Put] = {}
        self.uploads: dict[str, Begun] = {}
        #: Uploads of one page of their list.
        self.max_uploads = 1000
        self.lists_uploads = True
        #: Lists the uploads of a whole key only, as MinIO does.
        self.lists_whole_keys_only = False
        self.upload_numbers = itertools.count(1)
        self.requests: list[tuple[str, str]] = []
        #: Answers every request with this status.
        self.failing: int | None = None
        #: Keys, with the prefix, that no request may put.
        self.refused_keys: set[str] = set()
        #: Closes every connection without an answer.
        self.away = False
        #: Carries out so many of the next requests, and closes the connection without an answer.
        self.lost_answers = 0
        #: Sends so many of the next bodies cut in the middle.
        self.cut = 0
        #: Sends so many of the next bodies with a wrong byte.
        self.wrong = 0
        self.delay_seconds = 0.0
        self.honours_conditions = self.checks_checksums = True
        self.clock_ahead_seconds = 0.0
        self.lock = threading.Lock()

    def keys(self) -> list[str]:
        """Keys without the prefix."""
        return sorted(key.removeprefix(f"{PREFIX}/") for key in self.objects)

    def take(self, name: str) -> bool:
        """Whether the next one of a fault is due."""
        with self.lock:
            left: int = getattr(self, name)
            setattr(self, name, max(left - 1, 0))
            return left > 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with which Prelim uses it."""
        return settings_of(f"http://127.0.0.1:{self.port}")


def settings_of(endpoint: str, prefix: str = PREFIX) -> dict[str, Any]:
    """Settings with which Prelim uses the service at *endpoint*."""
    return {
        "storage_url": f"s3://{BUCKET}/{prefix}",
        "storage_endpoint": endpoint,
        "storage_access_key": ACCESS,
        "storage_secret_key": SECRET,
        "storage_keep_local_hours": 0,
    }


@contextmanager
def fake_storage() -> Iterator[FakeStorage]:
    """A running fake."""
    server = FakeStorage()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        object_files._bucket.cache_clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeStorage

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Print nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The time of its clock, which may be wrong."""
        return super().date_time_string((timestamp or time.time()) + self.server.clock_ahead_seconds)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if not self.server.away else b""
        parts = urlsplit(self.path)
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        key, query = rest[0] if rest else "", dict(parse_qsl(parts.query, keep_blank_values=True))
        self.server.requests.append((self.command, key))
        time.sleep(self.server.delay_seconds)
        if self.server.away:
            self.close_connection = True
            return
        if self.server.failing is not None:
            self._answer(self.server.failing, _error("Failing"))
        elif f"Credential={ACCESS}/" not in self.headers.get("Authorization", ""):
            self._answer(403, _error("InvalidAccessKeyId"))
        elif self.command == "PUT" and key in self.server.refused_keys:
            self._answer(403, _error("AccessDenied"))
        elif bucket != BUCKET:
            self._answer(404, _error("NoSuchBucket"))
        else:
            with self.server.lock:
                status, content, headers = self._carry_out(key, query, body)
            self._answer(status, content, headers)

    # The names are those of the base class.
    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _carry_out(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        action: dict[tuple[str, bool], Callable[..., tuple[int, bytes, dict[str, str]]]] = {
            ("PUT", True): self._put_part,
            ("POST", False): self._begin,
            ("POST", True): self._complete,
            ("DELETE", True): self._abort,
            ("PUT", False): self._put,
            ("DELETE", False): self._delete,
        }
        if self.command in ("GET", "HEAD"):
            return self._list(query) if not key else self._get(key)
        return action[self.command, "uploadId" in query](key, query, body)

    def _get(self, key: str) -> tuple[int, bytes, dict[str, str]]:
        found = self.server.objects.get(key)
        if found is None:
            return 404, _error("NoSuchKey"), {}
        return 200, found.body, dict(found.metadata)

    def _list(self, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if "uploads" in query:
            return self._list_uploads(query)
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(key for key in self.server.objects if key.startswith(query.get("prefix", "")) and key > after)
        size = min(int(query.get("max-keys", "1000")), 1000)
        shown, more = keys[:size], len(keys) > size
        contents = (
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key].body)}</Size>"
            f"<LastModified>{self.server.objects[key].modified}</LastModified></Contents>"
            for key in shown
        )
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        text = f"{XML}<R xmlns='x'><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(contents)}</R>"
        return 200, text.encode(), {}

    def _list_uploads(self, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if not self.server.lists_uploads:
            return 403, _error("AccessDenied"), {}
        after = query.get("key-marker", ""), query.get("upload-id-marker", "")
        every = sorted((upload.key, number) for number, upload in self.server.uploads.items())
        prefix = query.get("prefix", "")
        is_listed = prefix.__eq__ if self.server.lists_whole_keys_only else (lambda key: key.startswith(prefix))
        left = [each for each in every if is_listed(each[0]) and each > after]
        shown, more = left[: self.server.max_uploads], len(left) > self.server.max_uploads
        found = (
            f"<Upload><Key>{escape(key)}</Key><UploadId>{number}</UploadId>"
            f"<Initiated>{self.server.uploads[number].begun}</Initiated></Upload>"
            for key, number in shown
        )
        names = zip(("NextKeyMarker", "NextUploadIdMarker"), shown[-1] if more else (), strict=False)
        markers = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in names)
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>{markers}"
        return 200, f"{XML}<R xmlns='x'>{truncated}{''.join(found)}</R>".encode(), {}

    def _exists(self, key: str) -> bool:
        conditional = self.headers.get("If-None-Match") == "*" and self.server.honours_conditions
        return conditional and key in self.server.objects

    def _is_bad(self, body: bytes) -> bool:
        expected = self.headers.get("x-amz-checksum-sha256")
        digest = hashlib.sha256(body)
        differs = expected and expected != base64.b64encode(digest.digest()).decode()
        return self.server.checks_checksums and bool(
            differs or digest.hexdigest() != self.headers["x-amz-content-sha256"]
        )

    def _metadata(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _put(self, key: str, _: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._is_bad(body):
            return 400, _error("BadDigest"), {}
        if self._exists(key):
            return 412, _error("PreconditionFailed"), {}
        self.server.objects[key] = Put(body, self._metadata())
        return 200, b"", {"ETag": '"tag"'}

    def _delete(self, key: str, *_: object) -> tuple[int, bytes, dict[str, str]]:
        self.server.objects.pop(key, None)
        return 204, b"", {}

    def _begin(self, key: str, *_: object) -> tuple[int, bytes, dict[str, str]]:
        upload = f"u{next(self.server.upload_numbers)}"
        self.server.uploads[upload] = Begun(key, self._metadata())
        return 200, f"{XML}<R xmlns='x'><UploadId>{upload}</UploadId></R>".encode(), {}

    def _put_part(self, _: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._is_bad(body):
            return 400, _error("BadDigest"), {}
        self.server.uploads[query["uploadId"]].parts[int(query["partNumber"])] = body
        return 200, b"", {"ETag": '"part"'}

    def _complete(self, key: str, query: dict[str, str], _: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._exists(key):
            return 412, _error("PreconditionFailed"), {}
        upload = self.server.uploads.pop(query["uploadId"])
        content = b"".join(part for _, part in sorted(upload.parts.items()))
        self.server.objects[key] = Put(content, upload.metadata)
        return 200, f"{XML}<R xmlns='x'/>".encode(), {}

    def _abort(self, _: str, query: dict[str, str], __: bytes) -> tuple[int, bytes, dict[str, str]]:
        self.server.uploads.pop(query["uploadId"], None)
        return 204, b"", {}

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.server.take("lost_answers"):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        is_object = status == http.client.OK and self.command == "GET" and not body.startswith(XML.encode())
        if is_object and self.server.take("cut"):
            body, self.close_connection = body[: len(body) // 2], True
        elif is_object and self.server.take("wrong"):
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.wfile.write(body)


def _error(code: str) -> bytes:
    return f"{XML}<Error><Code>{code}</Code></Error>".encode()


class Seaweed:
    """SeaweedFS in one process with its S3 gateway, and a bucket; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [_free_port() for _ in range(4)]
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self._program = tool("weed")
        self._folder.mkdir(parents=True, exist_ok=True)
        identity = (
            f'{{"name":"t","credentials":[{{"accessKey":"{ACCESS}","secretKey":"{SECRET}"}}],"actions":["Admin"]}}'
        )
        (folder / "s3.json").write_text(f'{{"identities":[{identity}]}}')

    def start(self) -> None:
        """Start it and create the bucket."""
        s3, master, volume, filer = self._ports
        options = f"-dir={self._folder} -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.port={s3} -master.port={master}"
        options += f" -volume.port={volume} -filer.port={filer} -volume.max=50 -master.volumeSizeLimitMB=64"
        options += f" -s3.config={self._folder / 's3.json'} -master.volumePreallocate=false -master.telemetry=false"
        # Its other services have fixed ports.
        options += " -s3.port.iceberg=0 -s3.port.lance=0"
        log = (self._folder / "weed.log").open("ab")
        with log:
            self._process = subprocess.Popen([self._program, "server", *options.split()], stdout=log, stderr=log)
        wait_until(self._answers, seconds=40)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, or end it as a power cut does."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(20)
            self._process = None

    def signal(self, number: Signals) -> None:
        """Send a signal, such as SIGSTOP: it then accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        bucket = object_files.required(object_files.bucket(Settings(**settings_of(self.endpoint))))
        try:
            bucket._connections.request("PUT", "")
            bucket.require()
        except StorageError:
            return False
        return True


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A running SeaweedFS."""
    server = Seaweed(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)
        object_files._bucket.cache_clear()


def _free_port() -> int:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port < 55_000 and not _given & {port, port + GRPC}:
                with suppress(OSError):  # another program has it
                    second.bind(("127.0.0.1", port + GRPC))
                    _given.update((port, port + GRPC))
                    return port
