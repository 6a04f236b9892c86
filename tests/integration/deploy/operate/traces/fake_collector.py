"""A collector of OpenTelemetry (OTLP over HTTP, protobuf) that keeps what it accepted, with faults."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class FakeCollector:
    """Server on a free port of 127.0.0.1; each batch takes the next of *faults*, and none once they are used up.

    A number: answers with that status, and keeps nothing; lost: keeps the batch and closes without an answer; hang: the
    same, after `released` is set; reject: keeps the batch and rejects one span of it.
    """

    faults: list[int | str] = field(default_factory=list)
    #: Batches with spans that were accepted, as they arrived.
    batches: list[bytes] = field(default_factory=list)
    requests: int = 0
    paths: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"collector": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def resources(self) -> list[Any]:
        """Return the resources with spans, in the order of arrival."""
        return [each for body in self.batches for each in ExportTraceServiceRequest.FromString(body).resource_spans]

    def spans(self) -> list[Any]:
        """Return the spans in the order of arrival, with those that were sent again."""
        return [span for each in self.resources() for scope in each.scope_spans for span in scope.spans]

    def traces(self) -> dict[str, dict[bytes, Any]]:
        """Return the spans by trace and span id, as a collector stores them: one that arrives again replaces itself."""
        found: dict[str, dict[bytes, Any]] = {}
        for span in self.spans():
            found.setdefault(span.trace_id.hex(), {})[span.span_id] = span
        return found

    def names(self) -> list[list[str]]:
        """Return the names of the spans of each trace."""
        return [[span.name for span in trace.values()] for trace in self.traces().values()]


def attributes(item: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in item.attributes}


class _Handler(BaseHTTPRequestHandler):
    collector: FakeCollector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        collector, answer = self.collector, ExportTraceServiceResponse()
        collector.requests += 1
        collector.paths.add(self.path)
        fault = collector.faults.pop(0) if collector.faults and body else None
        if isinstance(fault, int):
            self._answer(fault, b"")
            return
        if fault == "hang":
            collector.released.wait()
        if body:
            collector.batches.append(body)
        if fault in {"lost", "hang"}:
            self.close_connection = True
            return
        answer.partial_success.rejected_spans = int(fault == "reject")
        self._answer(200, answer.SerializeToString())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in self._headers(status, body):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _headers(self, status: int, body: bytes) -> Iterator[tuple[str, str]]:
        yield "Content-Type", "application/x-protobuf"
        yield "Content-Length", str(len(body))
        if status // 100 == 3:
            yield "Location", f"{self.collector.url}/v1/traces"

    def do_GET(self) -> None:
        self._answer(200, b"")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
