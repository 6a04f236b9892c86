"""Ids of a request in its log lines."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from structlog.contextvars import get_contextvars

from api.context import RequestContext

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

STUDY = "0b7d5d5e-7c2b-4f0e-9a53-5d1f6c1e8a11"


def bound(path: str, *, error: Exception | None = None) -> dict[str, Any]:
    """Return what is bound while *path* is handled; fail if anything is bound afterwards."""
    seen: dict[str, Any] = {}

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.update(get_contextvars())
        if error is not None:
            raise error

    async def call() -> None:
        with contextlib.suppress(ValueError):
            await RequestContext(app)({"type": "http", "path": path}, None, None)  # type: ignore[arg-type]
        assert get_contextvars() == {}

    asyncio.run(call())
    return seen


def test_each_request_has_its_own_id() -> None:
    first, second = bound("/"), bound("/")

    assert first.keys() == {"request_id"}
    assert first["request_id"] != second["request_id"]


@pytest.mark.parametrize("path", ["/studies/{}", "/v1/studies/{}", "/v1/studies/{}/report/images/1"])
def test_study_id_of_the_path_is_bound(path: str) -> None:
    assert bound(path.format(STUDY))["study_id"] == STUDY


@pytest.mark.parametrize("path", ["/v1/studies", "/studies/Doe^Jane", f"/login/{STUDY}"])
def test_nothing_else_of_a_path_is_bound(path: str) -> None:
    assert bound(path).keys() == {"request_id"}


def test_ids_are_unbound_after_an_error() -> None:
    assert "study_id" in bound(f"/studies/{STUDY}", error=ValueError())
