"""Addresses of requests hold Patient IDs: FastAPI gives none to OpenTelemetry, whatever is configured around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.testclient import TestClient
from opentelemetry import trace

from api.app import create_app
from db.settings import Settings

if TYPE_CHECKING:
    import pytest


def test_no_span_is_made_although_a_tracer_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Provider(trace.TracerProvider):
        def get_tracer(self, instrumenting_module_name: str, *_: Any, **__: Any) -> trace.Tracer:
            asked.append(instrumenting_module_name)
            return trace.NoOpTracer()

    monkeypatch.setattr(trace, "get_tracer_provider", Provider)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    app = create_app(Settings())
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/v1/live", params={"patient": "PHANTOM"}).status_code == 200

    assert asked == []
