"""Every read of patient data, and every denied one, has a row in a hash chain before its response is sent."""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from db.access import audit_log, keys
from db.access.audit_log import Chain, Entry
from db.models import AuditChain, AuditRow
from db.session import transaction
from db.settings import Settings
from deploy.operate.audit_log import actions

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from tests.integration.api.arrivals import Arrivals


def rows(url: str) -> list[AuditRow]:
    with transaction(url) as session:
        return list(session.scalars(select(AuditRow).order_by(AuditRow.chain, AuditRow.sequence)))


def problems(url: str) -> list[str]:
    with transaction(url) as session:
        return audit_log.verify(session).problems


def appended(url: str, count: int) -> None:
    chain = Chain("test:1")
    for number in range(count):
        now = dt.datetime.now(dt.UTC)
        chain.append(url, [Entry(now, "read", 200, "key a", "::1", "GET /", [], {"n": number})])


def test_each_read_and_each_denied_one_has_a_row(
    client: TestClient, anonymous: TestClient, arrivals: Arrivals, database_url: str, key: str
) -> None:
    study = arrivals.reported()
    tag = client.get(f"/v1/studies/{study}/report/images/1").headers["ETag"]
    client.get(f"/v1/studies/{study}/report/images/1", headers={"If-None-Match": tag})
    client.get("/v1/studies?state=reported&limit=5")
    client.get(f"/v1/studies/{uuid.uuid4()}/report")
    client.post(f"/v1/studies/{study}/identity", json={})
    anonymous.get(f"/v1/studies/{study}/report", headers={"Authorization": "Bearer prelim_x"})
    anonymous.get(f"/studies/{study}")
    anonymous.post("/login", data={"key": "prelim_x"})
    anonymous.post("/login", data={"key": key})
    anonymous.post("/logout")
    found = rows(database_url)

    image = "GET /v1/studies/{study_id}/report/images/{ordinal}"
    assert [(row.route, row.status, row.principal) for row in found] == [
        (image, 200, "key reading room"),
        (image, 304, "key reading room"),
        ("GET /v1/studies", 200, "key reading room"),
        ("GET /v1/studies/{study_id}/report", 404, "key reading room"),
        ("POST /v1/studies/{study_id}/identity", 403, "key reading room"),
        ("GET /v1/studies/{study_id}/report", 401, ""),
        ("GET /studies/{study_id}", 303, ""),
        ("POST /login", 401, ""),
        ("POST /login", 303, "key reading room"),
        ("POST /logout", 303, "key reading room"),
    ]
    assert [row.studies for row in found[:3]] == [[study]] * 3
    assert found[5].detail == {"study_id": str(study)}
    assert (found[0].address, found[2].detail) == ("testclient", {"parameters": ["limit", "state"]})
    assert problems(database_url) == []


def test_values_that_a_caller_typed_are_not_stored(client: TestClient, database_url: str) -> None:
    client.get("/v1/studies/Doe^Jane?Doe^Jane=Doe^Jane")
    client.get("/v1/studies/dee?dee=dee")

    assert "dee" not in str([vars(row) for row in rows(database_url)])
    assert "Doe" not in str([vars(row) for row in rows(database_url)])


def test_no_row_no_body(client: TestClient, arrivals: Arrivals, database_url: str) -> None:
    study = arrivals.reported()
    with transaction(database_url) as session:
        session.execute(text("ALTER TABLE audit_rows ADD CONSTRAINT full_disk CHECK (false) NOT VALID"))
    answers = [client.get(f"/v1/studies/{study}{tail}") for tail in ("", "/report", "/report/images/1")]
    with transaction(database_url) as session:
        session.execute(text("ALTER TABLE audit_rows DROP CONSTRAINT full_disk"))

    assert {answer.status_code for answer in answers} == {503}
    assert not any("Doe" in answer.text or b"PNG" in answer.content for answer in answers)
    assert client.get(f"/v1/studies/{study}").status_code == 200, "with a new chain"
    assert problems(database_url) == []


def test_no_row_no_change(app: FastAPI, visitor: TestClient, arrivals: Arrivals, database_url: str) -> None:
    study = arrivals.reported()
    with transaction(database_url) as session:
        key = keys.create(session, "reader", ["read", "feedback", "questions"])
    reader = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    tag = reader.get(f"/v1/studies/{study}/report").headers["ETag"]
    path, opened = f"/v1/studies/{study}/report/feedback", {"json": {"kind": "opened"}, "headers": {"If-Match": tag}}
    with transaction(database_url) as session:
        session.execute(text("ALTER TABLE audit_rows RENAME TO elsewhere"))
    answers = [
        reader.post(path, **opened),  # type: ignore[arg-type]
        reader.post(f"/v1/studies/{study}/hold", json={"reason": "side"}),
        reader.post(f"/v1/studies/{study}/questions", json={"question": "Effusion?"}),
        visitor.post("/logout"),
    ]
    with transaction(database_url) as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO audit_rows"))

    assert [answer.status_code for answer in answers] == [503] * 4
    assert reader.get(path).json() == []
    assert reader.get(f"/v1/studies/{study}/report").json()["hold"] is None
    assert reader.get(f"/v1/studies/{study}/questions").json() == {"inquiries": []}
    assert visitor.get("/v1/studies").status_code == 200, "the session goes on"
    assert reader.post(path, **opened).status_code == 201  # type: ignore[arg-type]
    assert [row.status for row in rows(database_url) if row.route.startswith("POST") and "feedback" in row.route] == [
        201
    ]
    assert problems(database_url) == []


def test_many_writers_do_not_wait_for_each_other_and_every_chain_holds(database_url: str) -> None:
    threads = [threading.Thread(target=appended, args=(database_url, 5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rows(database_url)) == 20
    assert problems(database_url) == []


def test_log_is_append_only(database_url: str) -> None:
    appended(database_url, 1)
    for statement in ("UPDATE audit_rows SET status = 1", "DELETE FROM audit_chains", "TRUNCATE audit_rows"):
        with pytest.raises(DBAPIError, match="append-only"), transaction(database_url) as session:
            session.execute(text(statement))


def test_export_is_dicom_or_fhir(client: TestClient, arrivals: Arrivals, database_url: str, tmp_path: Path) -> None:
    study = arrivals.reported(patient_id="P-17")
    uid = client.get(f"/v1/studies/{study}").json()["study_instance_uid"]
    client.post("/login", data={"key": "prelim_x"})
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    actions.export(settings, tmp_path / "a.xml", fhir=False, since=None)
    actions.export(settings, tmp_path / "a.json", fhir=True, since=None)
    read, login = (ET.fromstring(line) for line in (tmp_path / "a.xml").read_text().splitlines())
    event, failed = (json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines())

    assert [each.get("ParticipantObjectID") for each in read.findall("ParticipantObjectIdentification")] == [
        uid,
        "P-17",
    ]
    assert read.find("ActiveParticipant").get("UserID") == "key reading room"  # type: ignore[union-attr]
    assert login.find("EventIdentification").get("EventOutcomeIndicator") == "4"  # type: ignore[union-attr]
    assert event["meta"]["profile"][0].endswith("IHE.BasicAudit.PatientRead")
    assert [entity["what"]["identifier"]["value"] for entity in event["entity"]] == ["P-17", f"urn:oid:{uid}"]
    assert (failed["outcome"], failed["type"]["code"]) == ("4", "110114")
    assert actions.verify(settings, Console(quiet=True), None)


def test_start_names_process_and_heads_of_earlier_chains(database_url: str) -> None:
    appended(database_url, 2)
    appended(database_url, 1)
    with transaction(database_url) as session:
        first, second = session.scalars(select(AuditChain).order_by(AuditChain.number))

    assert (first.process, first.heads) == ("test:1", {})
    assert second.heads["1"][0] == 2
    assert second.previous == first.hash
