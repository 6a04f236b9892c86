"""What changed since a reader's last act is shown before the draft can be used; another study stands beside it."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from api.page import course
from db.access import keys
from db.answers import inquiries
from db.answers.answer import Question
from db.models import ReportFeedback, Study
from db.reports import feedback, holds
from db.session import transaction
from db.states import FeedbackKind
from tests.integration.api.test_report_grounds import DENIAL, EFFUSION, draft
from tests.integration.api.v1.test_seals import SECRET, readers
from worker.grounding.requested import comparison

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def reader(app: FastAPI, database_url: str) -> TestClient:
    with transaction(database_url) as session:
        key = keys.create(session, "reader", ["read", "feedback"])
    client = TestClient(app, follow_redirects=False)
    assert client.post("/login", data={"key": key}).status_code == 303
    return client


def tag_of(page: str) -> str:
    (tag,) = set(re.findall(r'name="tag" value="([^"]*)"', page))
    return tag.replace("&#34;", '"')


def newer(arrivals: Arrivals, study_id: uuid.UUID, **words: str) -> None:
    arrivals.late_image(study_id, patient_id=words.pop("patient_id", "P-17"))
    arrivals.settle_again(study_id)
    arrivals.report(study_id, draft(arrivals, EFFUSION, DENIAL, **words))


def test_reader_of_an_older_version_acknowledges_the_difference_first(reader: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(draft(arrivals, EFFUSION, DENIAL, impression="Clear lungs."))
    path = f"/studies/{study_id}"
    first = reader.get(path).text
    reader.post(f"{path}/sentences", data={"sentence": 1, "kind": "accepted", "tag": tag_of(first)})
    newer(arrivals, study_id)
    changed = reader.get(path).text
    stale = reader.post(f"{path}/acknowledgement", data={"tag": tag_of(first)})
    again = reader.get(path).text
    accepted = reader.post(f"{path}/acknowledgement", data={"tag": tag_of(changed)})
    seen = reader.get(path).text

    assert "You have read" not in first
    assert "You have read version 1. Version 2 is shown now." in changed
    assert re.search(r"<del><span[^>]*>Removed: </span>Clear lungs\.</del>\s+<ins>", changed)
    assert ('class="judge"' in first, 'class="judge"' in changed, 'class="judge"' in seen) == (True, False, True)
    assert (stale.status_code, "You have read" in again) == (303, True), "it has changed since"
    assert (accepted.status_code, accepted.headers["Location"]) == (303, f"{path}#report")
    assert "You have read" not in seen
    with transaction(arrivals.url) as session:
        acts = [(act.version, act.kind, act.author) for act in feedback.of_study(session, study_id)]
    assert acts == [(1, FeedbackKind.ACCEPTED, "key reader"), (2, FeedbackKind.OPENED, "key reader")]


def test_acts_of_others_acknowledge_nothing(reader: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    with transaction(arrivals.url) as session:
        for version, author in ((1, "key other"), (1, "key reader")):
            act = ReportFeedback(version=version, kind=FeedbackKind.OPENED, text="", author=author)
            feedback.add(session, session.get_one(Study, study_id), act)
    newer(arrivals, study_id)
    with transaction(arrivals.url) as session:
        act = ReportFeedback(version=2, kind=FeedbackKind.OPENED, text="", author="key other")
        feedback.add(session, session.get_one(Study, study_id), act)

    assert "You have read version 1." in reader.get(f"/studies/{study_id}").text


def test_page_states_what_a_reader_must_know_and_what_stops_a_copy(reader: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    plain = reader.get(f"/studies/{study_id}").text
    with transaction(arrivals.url) as session:
        holds.hold(session, study_id, "wrong <b>patient</b>?", "key other")
    held = reader.get(f"/studies/{study_id}").text
    facts = held.partition('<template id="facts">')[2].partition("</template>")[0]

    assert "data-obstacle" not in plain
    assert 'data-refresh data-obstacle="the study is held"' in held
    assert "<p>Patient: Doe, Jane · P-17 · 1961-02-03.</p><p>You read as key reader.</p><p>Version 1, written " in facts
    assert "wrong &lt;b&gt;patient&lt;/b&gt;?" in facts


def test_another_study_of_the_patient_stands_beside_with_final_text_and_marks(
    reader: TestClient, arrivals: Arrivals
) -> None:
    one = arrivals.reported(patient_birth_date="19610204")
    other, of_another = arrivals.reported(draft(arrivals, EFFUSION, DENIAL)), arrivals.reported(patient_id="P-18")
    with transaction(arrivals.url) as session:
        final = ReportFeedback(version=1, kind=FeedbackKind.FINAL, text="Small <i>effusion</i>.", author="key other")
        feedback.add(session, session.get_one(Study, other), final)
    page = reader.get(f"/studies/{one}", params={"beside": str(other)}).text
    shown = page[page.index("other-study") :]

    assert f'href="/studies/{one}?beside={other}#beside"' in page
    assert "Small &lt;i&gt;effusion&lt;/i&gt;." in shown
    assert re.search(r"No pneumothorax\. <span[^>]*>\[check: unsupported\]", shown)
    assert "Other birth date: perhaps another patient." in shown
    assert re.search(r"Final text of <bdi>key other</bdi>, [^<]*, of version 1</h3>", shown)
    assert ">Warning: " in shown, "a check of the other draft found a problem"
    assert 'data-head="PRELIMINARY' in shown
    assert [
        reader.get(f"/studies/{one}", params={"beside": str(each)}).status_code
        for each in (of_another, one, uuid.uuid4(), "x")
    ] == [404, 404, 404, 422]


def test_page_says_which_other_studies_it_does_not_list(
    reader: TestClient, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, nameless = arrivals.receiving(), arrivals.receiving(patient_id="")
    for _ in range(2):
        arrivals.receiving()
    all_listed = reader.get(f"/studies/{one}").text
    monkeypatch.setattr(course, "MAX_OTHERS", 1)

    assert "Only the newest" not in all_listed
    assert "Only the newest 1 are listed." in reader.get(f"/studies/{one}").text
    assert "Not looked up: the study has no patient ID." in reader.get(f"/studies/{nameless}").text


def test_sealed_draft_of_another_study_is_not_shown_beside(arrivals: Arrivals, tmp_path: Path) -> None:
    one, other = arrivals.reported(arrivals.draft(findings="Own draft.")), arrivals.reported()
    page = readers(arrivals, tmp_path, "after_images")("reader").get(f"/studies/{one}", params={"beside": str(other)})

    assert (page.status_code, SECRET in page.text) == (200, False)
    assert "Its draft is sealed." in page.text


def test_list_and_study_show_attention_and_other_readers(
    reader: TestClient, visitor: TestClient, arrivals: Arrivals
) -> None:
    study_id = arrivals.reported(draft(arrivals, EFFUSION, DENIAL))
    arrivals.failed(patient_id="P-18")
    visitor.get(f"/studies/{study_id}")
    mine, theirs = reader.get("/").text, visitor.get("/").text
    page = reader.get(f"/studies/{study_id}").text

    assert "<b>Attention:</b> comparison with a prior study, unsupported finding</small>" in mine
    assert "<b>Attention:</b> no report</small>" in mine
    assert (mine.count("Being read by"), theirs.count("Being read by")) == (1, 0)
    assert "Being read by <bdi>key reading room</bdi>: the page was open there" in page
    assert "Not checked: no report." not in page


def test_page_says_that_nothing_was_checked(reader: TestClient, arrivals: Arrivals) -> None:
    unchecked = arrivals.reported(replace(arrivals.draft(), checks=[]))

    assert "Not checked: no report." in reader.get(f"/studies/{arrivals.queued()}").text
    assert "No check is stored with this report" in reader.get(f"/studies/{unchecked}").text
    other = arrivals.reported(draft(arrivals, EFFUSION, DENIAL))
    beside = reader.get(f"/studies/{other}?beside={unchecked}").text.partition('id="beside"')[2]
    for words in ("No sentence of this report was checked.", "No check is stored with this report"):
        assert words in reader.get(f"/studies/{unchecked}").text
        assert words in beside
    assert reader.get("/").text.count("Not checked: no check is stored with the report") == 1


def test_page_says_what_its_key_lacks_and_asks_for_nothing_beyond(
    app: FastAPI, arrivals: Arrivals, database_url: str
) -> None:
    study_id, other = arrivals.reported(), arrivals.reported()
    with transaction(database_url) as session:
        key = keys.create(session, "reports only", ["reports"])
        inquiries.ask(session, session.get_one(Study, study_id), Question("Is there an effusion?"), "key other")
    client = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    page = client.get(f"/studies/{study_id}").text

    assert '<img src="/v1' not in page, "its answer would be 403, and the image taken for a lost one"
    assert "effusion" not in page
    assert str(other) not in page
    for scope in ("images", "worklist", "questions"):
        assert f"lacks the scope <code>{scope}</code>" in page
    assert client.get(f"/studies/{study_id}?beside={other}").status_code == 403


def test_page_names_its_reader(reader: TestClient, arrivals: Arrivals) -> None:
    page = reader.get(f"/studies/{arrivals.reported()}").text

    assert "<p>You read as key reader.</p>" in page, "compared at each refresh: another person may have logged in"
    assert '<span class="muted"><bdi>key reader</bdi></span>' in page


def test_reason_for_the_examination_stands_above_the_draft(reader: TestClient, arrivals: Arrivals) -> None:
    study_id = arrivals.queued(indication="Pneumothorax? <b>", requested_procedure="Chest PA, effusion?")
    before = reader.get(f"/studies/{study_id}").text
    plain = arrivals.draft(findings="No pneumothorax.")
    request = comparison("Pneumothorax? <b>\nChest PA, effusion?", "No pneumothorax.")
    arrivals.report(study_id, replace(plain, provenance=plain.provenance | request))
    page = reader.get(f"/studies/{study_id}").text
    unknown = reader.get(f"/studies/{arrivals.reported(indication='Cough')}").text

    for each in (before, page):
        assert '<p dir="auto">Pneumothorax? &lt;b&gt;</p><p dir="auto">Chest PA, effusion?</p>' in each
    assert page.index("Chest PA, effusion?") < page.index("No pneumothorax.", page.index("Preliminary report"))
    assert "The draft does not mention: pleural effusion." in page
    assert "The draft mentions: pneumothorax." in page
    assert "Whether the draft mentions it is not known" in unknown
