"""The hot paths of the API cost a fixed number of statements, whatever a report or a page holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from db.session import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def statements(database_url: str) -> Iterator[list[str]]:
    """Statements that were executed, by their first words."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(" ".join(statement.split()[:3]))

    event.listen(engine(database_url), "before_cursor_execute", note)
    yield found
    event.remove(engine(database_url), "before_cursor_execute", note)


@pytest.mark.parametrize("path", ["/v1/studies/{}/report", "/v1/studies/{}/report?version=1"])
def test_report_takes_one_statement_beside_key_and_audit_row(
    client: TestClient, arrivals: Arrivals, statements: list[str], path: str
) -> None:
    study = arrivals.reported()
    # The first request starts an audit chain.
    client.get("/v1/studies").raise_for_status()
    statements.clear()

    client.get(path.format(study)).raise_for_status()

    assert [statement.partition(" ")[0] for statement in statements] == ["SELECT", "SELECT", "INSERT"]


def test_work_list_takes_one_statement_beside_key_and_audit_row(
    client: TestClient, arrivals: Arrivals, statements: list[str]
) -> None:
    arrivals.reported()
    arrivals.queued()
    client.get("/v1/studies").raise_for_status()
    statements.clear()

    client.get("/v1/studies").raise_for_status()

    # The page with the marks and readers of its studies.
    assert [statement.partition(" ")[0] for statement in statements] == ["SELECT", "SELECT", "INSERT"]


def test_image_is_read_once(client: TestClient, arrivals: Arrivals, statements: list[str]) -> None:
    study = arrivals.reported()
    client.get("/v1/studies").raise_for_status()
    statements.clear()

    client.get(f"/v1/studies/{study}/report/images/1").raise_for_status()

    # Key, study, image, audit row: none again after the connection was given back.
    assert [statement.partition(" ")[0] for statement in statements] == ["SELECT", "SELECT", "SELECT", "INSERT"]
