"""A collector of OpenTelemetry (OTLP over HTTP), as its exporter reaches it.

The one module that imports OpenTelemetry. The exporter reads headers, certificates, compression and proxies from the
variables of its own specification (OTEL_EXPORTER_OTLP_*).
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from db.errors import ConfigurationError
from db.release import release
from deploy.operate.traces.exporter import NotSent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.operate.traces.spans import Span

#: Path of a collector, appended to an address without one (OTLP 1.0, section 3.2).
PATH = "/v1/traces"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
OK_STATUSES = range(200, 300)


class Collector:
    """Collector at an address; raises ConfigurationError if a variable of the exporter is invalid."""

    def __init__(self, url: str, seconds: float) -> None:
        self._session = _Session()
        try:
            self._exporter = OTLPSpanExporter(endpoint=endpoint(url), timeout=seconds, session=self._session)
            # It adds OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
            self._resource = Resource.create({"service.name": "prelim", "service.version": release()})
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"a variable OTEL_* is invalid: {error}") from error
        self._scope = InstrumentationScope("prelim", release())

    def send(self, spans: Sequence[Span]) -> int:
        """Send a batch; return the number of spans that the collector rejected. Raises NotSent.

        An empty batch tests the connection.
        """
        self._session.problem = "the batch was not sent"
        self._exporter.export([self._readable(span) for span in spans])
        if self._session.problem:
            raise NotSent(self._session.problem)
        return self._session.rejected

    def close(self) -> None:
        """End a `send` that waits to repeat its request; later ones fail."""
        self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        status = Status(StatusCode.ERROR, span.failure) if span.failure else Status()
        return ReadableSpan(
            span.name,
            context=_context(span.trace, span.id),
            parent=None if span.parent is None else _context(span.trace, span.parent),
            resource=self._resource,
            attributes=span.attributes,
            status=status,
            start_time=nanoseconds(span.begins),
            end_time=nanoseconds(span.ends),
            instrumentation_scope=self._scope,
        )


class _Session(requests.Session):
    """Session that keeps the answer to the last request: the exporter returns only whether it failed."""

    problem = ""
    rejected = 0

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        try:
            response = super().send(request, **options)
        except OSError as error:
            self.problem = _cause(error)
            raise
        self.problem = "" if response.status_code in OK_STATUSES else f"the collector answered {response.status_code}"
        self.rejected = 0 if self.problem else _rejected(response.content)
        return response


def endpoint(url: str) -> str:
    """Return the URL to which batches for the collector at *url* are sent."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH


def nanoseconds(at: dt.datetime) -> int:
    """Return the nanoseconds since 1970, exactly."""
    return (at - EPOCH) // dt.timedelta(microseconds=1) * 1000


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _cause(error: OSError) -> str:
    """Return the cause without the exception's text, which could quote a header."""
    match error:
        case requests.exceptions.SSLError():
            return "TLS with the collector failed: its certificate, or the files of OTEL_EXPORTER_OTLP_*"
        case requests.Timeout():
            return "the collector gave no answer in time"
        case requests.ConnectionError():
            return "the collector cannot be reached"
        case requests.RequestException():
            return f"the request failed ({type(error).__name__})"
        case _:
            return f"a file of OTEL_EXPORTER_OTLP_* cannot be read ({type(error).__name__})"


def _rejected(body: bytes) -> int:
    """Return the number of spans that the answer names as rejected; 0 if it is not an OTLP message."""
    try:
        return int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
    except ValueError:
        return 0
