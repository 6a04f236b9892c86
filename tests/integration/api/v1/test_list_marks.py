"""Marks of studies in the work list: why they need attention, and who has their pages open."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from db.access import keys
from db.access.audit_log import Chain, Entry
from db.reports.grounds import GroundedFinding, GroundedSentence, Grounds
from db.reports.list_marks import READING
from db.reports.versions import CheckResult
from db.session import transaction
from db.settings import Settings
from db.states import CheckState, Verdict

if TYPE_CHECKING:
    import uuid
    from pathlib import Path

    from db.reports.versions import Draft
    from tests.integration.api.arrivals import Arrivals


def rows(client: TestClient, **query: Any) -> dict[str, dict[str, Any]]:
    return {study["id"]: study for study in client.get("/v1/studies", params=query).json()["studies"]}


def draft(arrivals: Arrivals, verdict: Verdict, *checks: CheckResult) -> Draft:
    finding = GroundedFinding("pneumothorax", "left", "", "", "present", 0, 12, verdict, None, None, [])
    return replace(
        arrivals.draft(findings="Pneumothorax."),
        checks=list(checks),
        grounds=Grounds([GroundedSentence("findings", 0, 13, [finding])], []),
    )


def test_attention_names_what_marks_a_study(client: TestClient, arrivals: Arrivals) -> None:
    critical = CheckResult("critical_finding", CheckState.NOTICE, ["Critical finding: left pneumothorax."])
    warning, passed = CheckResult("prior", CheckState.WARNING, ["x"]), CheckResult("size", CheckState.PASSED)
    quiet = str(arrivals.reported(draft(arrivals, Verdict.SUPPORTED, passed)))
    marked = str(arrivals.reported(draft(arrivals, Verdict.SUPPORTED, warning, critical)))
    contradicted = str(arrivals.reported(draft(arrivals, Verdict.CONTRADICTED)))
    failed = str(arrivals.failed())
    found = rows(client)

    assert {study: found[study]["attention"] for study in found} == {
        failed: ["failed"],
        contradicted: ["contradicted"],
        marked: ["critical_finding", "prior"],
        quiet: [],
    }
    unchecked = str(arrivals.reported(replace(arrivals.draft(), checks=[])))
    of_report = {study: one["report"]["checked"] for study, one in rows(client).items() if one["report"]}
    assert of_report == {quiet: True, marked: True, contradicted: False, unchecked: False}
    assert rows(client, attention="true").keys() == {failed, contradicted, marked}
    assert client.get(f"/v1/studies/{marked}").json()["attention"] == ["critical_finding", "prior"]


def test_marks_of_a_sealed_draft_are_not_named(database_url: str, tmp_path: Path, key: str, arrivals: Arrivals) -> None:
    study = str(arrivals.reported(draft(arrivals, Verdict.CONTRADICTED)))
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url), drafts="after_images")
    sealed = TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"})

    assert rows(sealed)[study]["attention"] == ["report"]


def opened(database_url: str, study: uuid.UUID, principal: str, ago: dt.timedelta, status: int = 200) -> None:
    at = dt.datetime.now(dt.UTC) - ago
    route = "GET /studies/{study_id}"
    Chain("test").append(database_url, [Entry(at, "read", status, principal, "127.0.0.1", route, [study], {})])


def test_readers_are_those_who_have_the_page_open(
    client: TestClient, visitor: TestClient, arrivals: Arrivals, database_url: str
) -> None:
    study, other = arrivals.reported(), arrivals.reported()
    client.get(f"/v1/studies/{study}/report")
    unread = rows(client)[str(study)]["readers"]
    visitor.get(f"/studies/{study}")
    opened(database_url, study, "person alice", READING - dt.timedelta(minutes=1))
    opened(database_url, study, "person bob", READING + dt.timedelta(minutes=1))
    opened(database_url, study, "person eve", dt.timedelta(0), status=403)
    found = rows(client)
    readers = found[str(study)]["readers"]
    until = [dt.datetime.fromisoformat(reader["until"]) for reader in readers]

    assert unread == [], "a program that reads the report is no reader at the page"
    assert [(reader["name"], reader["own"]) for reader in readers] == [
        ("person alice", False), ("key reading room", True),
    ]  # fmt: skip
    assert all(time.second == 0 and time > dt.datetime.now(dt.UTC) for time in until)
    assert found[str(other)]["readers"] == []
    assert client.get(f"/v1/studies/{study}").json()["readers"] == readers


def test_restricted_caller_sees_no_reader_of_another_site(
    app: Any, visitor: TestClient, arrivals: Arrivals, database_url: str
) -> None:
    study = arrivals.reported()
    visitor.get(f"/studies/{study}")
    with transaction(database_url) as session:
        text = keys.create(session, "south", ae_titles=["SOUTH"])
    south = TestClient(app, headers={"Authorization": f"Bearer {text}"})

    assert rows(south) == {}
    assert "reading room" not in south.get(f"/v1/studies/{study}").text
