from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from db.models import Study
from db.operations import heartbeats
from db.reports import reference_reports, versions
from db.session import transaction
from tests.integration.api.arrivals import png

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals


def test_empty_work_list_has_a_hint(visitor: TestClient) -> None:
    assert "No study has arrived yet" in visitor.get("/").text


def test_work_list_shows_state_patient_and_basis(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(patient_name="Doe^Jane", patient_sex="F")
    page = visitor.get("/").text

    assert f'href="/studies/{study_id}"><bdi>Doe, Jane</bdi></a>' in page
    assert '<bdi>P-17</bdi> · <bdi>F</bdi> · <bdi class="date">1961-02-03</bdi>' in page
    assert '<span class="state reported">Preliminary</span>' in page
    assert "1 of 1 images" in page


def test_work_list_warns_without_a_live_worker(visitor: TestClient, database_url: str) -> None:
    warning = "No worker is running"
    alone = visitor.get("/").text
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)

    assert warning in alone
    assert warning not in visitor.get("/").text


def test_filtered_work_list_pages_within_its_state(visitor: TestClient, arrivals: Arrivals) -> None:
    for _ in range(51):
        arrivals.receiving()
    arrivals.queued()
    first = visitor.get("/", params={"state": "receiving"}).text
    older = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    second = visitor.get(older).text

    assert (first.count('class="state receiving"'), second.count('class="state receiving"')) == (50, 1)
    assert "state queued" not in first + second


def test_study_without_a_patient_name_has_a_link(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.receiving(patient_name="", patient_id="", patient_birth_date="")

    assert f'href="/studies/{study_id}"><bdi>No name</bdi></a>' in visitor.get("/").text


def test_study_page_shows_banner_report_images_and_evidence(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    page = visitor.get(f"/studies/{study_id}").text

    assert versions.BANNER in page
    for text in ("The lungs are clear.", "No acute finding.", "cut short at 200 tokens", "Clear lungs in an earlier"):
        assert text in page
    assert f'<img src="/v1/studies/{study_id}/report/images/1?version=1"' in page
    assert 'http-equiv="refresh"' not in page, "the text of a report does not change while it is read"


def test_study_page_shows_the_problems_that_checks_found(visitor: TestClient, arrivals: Arrivals) -> None:
    page = visitor.get(f"/studies/{arrivals.reported()}").text

    assert "Warning: The text compares &lt;b&gt;with&lt;/b&gt; a prior." in page
    assert "not applicable: the header does not give the sex" in page
    assert "The model received: Clear lungs." in page


def test_parts_of_a_study_are_headings_in_the_report(visitor: TestClient, arrivals: Arrivals) -> None:
    parts = [{"name": "CT HEAD", "images": 1, "evidence": 0}, {"name": "CT CHEST", "images": 1, "evidence": 1}]
    text = "CT HEAD\nNo bleeding.\n\nCT CHEST\nClear lungs."
    page = visitor.get(f"/studies/{arrivals.reported(arrivals.draft([png(1), png(2)], parts, findings=text))}").text

    assert page.count("<h4>CT HEAD</h4>") == page.count("<h4>CT CHEST</h4>") == 1
    assert "<b>CT CHEST</b>" in page, "the earlier case is attributed to its part"


def test_names_written_right_to_left_are_isolated(visitor: TestClient, arrivals: Arrivals) -> None:
    name = "\u202eDoe^Jane"
    study_id = arrivals.reported(patient_name=name)

    for page in (visitor.get("/").text, visitor.get(f"/studies/{study_id}").text):
        assert page.count("\u202e") == page.count("<bdi>\u202e")


def test_priority_is_shown_unless_routine(visitor: TestClient, arrivals: Arrivals, database_url: str) -> None:
    routine, urgent = arrivals.queued(), arrivals.queued()
    with transaction(database_url) as session:
        session.get_one(Study, urgent).priority = 2

    assert visitor.get("/").text.count('class="priority') == 1
    assert '<span class="priority stat">STAT</span>' in visitor.get(f"/studies/{urgent}").text
    assert 'class="priority' not in visitor.get(f"/studies/{routine}").text


def test_failed_study_has_a_text_for_its_reader_and_one_for_the_operator(
    visitor: TestClient, arrivals: Arrivals
) -> None:
    study_id = arrivals.failed()
    for_reader, for_operator = visitor.get(f"/studies/{study_id}").text.split("For the operator")

    assert "No AI report." in for_reader
    assert "the model broke" not in for_reader + visitor.get("/").text
    assert "the model broke" in for_operator
    assert f"prelim retry {study_id}" in for_operator


def test_model_output_and_headers_are_escaped(visitor: TestClient, arrivals: Arrivals) -> None:
    evil = "<script>alert(1)</script>"
    study_id = arrivals.reported(arrivals.draft(findings=evil, impression=evil, basis=evil), patient_name=evil)

    assert evil not in visitor.get("/").text
    assert evil not in visitor.get(f"/studies/{study_id}").text


@pytest.mark.parametrize("state", ["receiving", "queued", "running"])
def test_page_of_a_pending_study_refreshes(visitor: TestClient, arrivals: Arrivals, state: str) -> None:
    page = visitor.get(f"/studies/{getattr(arrivals, state)()}").text

    assert "The report is being prepared" in page
    assert "data-refresh" in page
    assert '<noscript><meta http-equiv="refresh"' in page


@pytest.mark.parametrize(("state", "why"), [("failed", "the model broke"), ("not_reportable", "hold no pixels")])
def test_page_without_a_report_shows_the_reason(visitor: TestClient, arrivals: Arrivals, state: str, why: str) -> None:
    page = visitor.get(f"/studies/{getattr(arrivals, state)()}").text

    assert why in page
    assert "There is no report." in page


def test_outdated_report_has_a_warning(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)
    page = visitor.get(f"/studies/{study_id}").text

    assert "Images arrived after this report was written." in page
    assert "The lungs are clear." in page


def test_page_title_holds_no_patient_data(visitor: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(patient_name="Doe^Jane")
    page = visitor.get(f"/studies/{study_id}").text

    assert "Doe" not in page.split("</title>")[0]


def test_unknown_study_has_an_error_page(visitor: TestClient) -> None:
    answer = visitor.get(f"/studies/{uuid.uuid4()}")

    assert answer.status_code == 404
    assert "study not found" in answer.text
    assert answer.headers["Content-Type"].startswith("text/html")


def test_invalid_parameter_has_an_error_page(visitor: TestClient) -> None:
    answer = visitor.get("/", params={"after": "AAAA"})

    assert answer.status_code == 422
    assert "invalid cursor" in answer.text


def test_reference_report_is_shown_only_for_its_phantom(
    visitor: TestClient, arrivals: Arrivals, app: FastAPI, database_url: str
) -> None:
    phantom, patient = arrivals.reported(), arrivals.reported()
    with transaction(database_url) as session:
        uid = session.get_one(Study, phantom).study_instance_uid
    reference_reports.write(app.state.settings.operations.data_dir, uid, "A <b>coin</b> in the stomach.")

    page = visitor.get(f"/studies/{phantom}").text
    assert "Reference report of the phantom" in page
    assert "A &lt;b&gt;coin&lt;/b&gt; in the stomach." in page
    assert "Reference report of the phantom" not in visitor.get(f"/studies/{patient}").text


def test_work_list_is_searched_by_the_fields_in_its_url(visitor: TestClient, arrivals: Arrivals) -> None:
    for _ in range(51):
        arrivals.receiving(patient_id="P-1")
    arrivals.receiving(patient_id="P-2")
    empty = {"modality": "", "description": "", "accession_number": "", "priority": "", "sort": "", "state": ""}
    first = visitor.get("/", params=empty | {"patient_id": " P-1 ", "sort": "waiting"}).text
    following = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    second = visitor.get(following).text

    assert (first.count("<bdi>P-1</bdi>"), second.count("<bdi>P-1</bdi>")) == (50, 1)
    assert "<bdi>P-2</bdi>" not in first + second
    assert 'name="patient_id" maxlength="64" value="P-1"' in second
    assert 'href="/?patient_id=P-1&amp;sort=waiting&amp;state=receiving"' in second, "states keep the other filters"
    assert "waiting for " in first
    assert visitor.get("/", params={"patient": "P-1"}).status_code == 422


def test_list_is_searched_by_sender_body_part_dates_and_uid(visitor: TestClient, arrivals: Arrivals) -> None:
    found, other = arrivals.receiving(study_date="20261128"), arrivals.receiving(study_date="20250101")
    arrivals.sent_by("CT1", found)
    with transaction(arrivals.url) as session:
        uid = session.get_one(Study, found).study_instance_uid
    asked = {"study_date_from": "2026-11-01", "study_date_to": "20261130", "ae_title": "CT1", "body_part": "CHEST"}
    for query in (asked, {"study_instance_uid": f" {uid} "}):
        page = visitor.get("/", params=query).text
        assert (str(found) in page, str(other) in page) == (True, False)
    dated = visitor.get("/", params=asked).text

    assert '<input type="date" name="study_date_from" value="2026-11-01"' in dated
    assert "<details open><summary>More filters" in dated
    assert "<details><summary>More filters" in visitor.get("/").text
    for query in ({"study_date_from": "soon"}, {"study_instance_uid": "1.2.x"}):
        assert visitor.get("/", params=query).status_code == 422


def test_search_for_attention_without_a_match_says_so(visitor: TestClient, arrivals: Arrivals) -> None:
    arrivals.receiving()
    before = visitor.get("/?attention=true").text
    study_id = arrivals.failed()

    assert "No study meets this search." in before
    assert str(study_id) in visitor.get("/?attention=true").text
