"""Inquiries share the protocol of reports, and leave the state of their study alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from db import reference
from db.answers import inquiries, stored
from db.answers.answer import Answer, Choice, Diagnosis, NeighbourCase, OptionScore, Prediction, Question, ShownImage
from db.errors import NotPossible, PermanentFailure, StaleFence
from db.jobs import claims
from db.models import Inquiry, Job, ReferenceCase, Study
from db.operations import alarms, invariants, outcomes, overview, queue_figures
from db.reports.grounds import CitedSentence, GroundedFinding
from db.session import transaction
from db.settings import Settings
from db.states import JobKind, Verdict
from db.studies import lifecycle
from db.studies.deletion import retention
from db.studies.lifecycle import StudyAttributes
from db.studies.priority import HIGH, LOW, STAT
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT, expire_lease, lose_worker

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

QUESTION = Question("Is there an effusion?")
PARTS = {
    "text": "Yes, on the left.",
    "model_text": "Yes, on the left.",
    "basis": "1 of 1 images",
    "prompt_version": "2",
    "model_digest": "d",
    "provenance": {},
}
ANSWER = Answer(**PARTS, confidence=0.9, images=[ShownImage(1, "2.25.1", 0, "only image")])  # type: ignore[arg-type]
DIAGNOSIS = Diagnosis(
    **PARTS,  # type: ignore[arg-type]
    options=[OptionScore("effusion", 0.7, True, -1.5, votes=2), OptionScore("mass", 0.1, False, -4.5)],
    none_of_these=0.2,
    predictions=[Prediction("chest-net", "1.2", "effusion", 0.93, "rest")],
)


def ask(arrivals: Arrivals, asked: Question | Choice = QUESTION) -> uuid.UUID:
    with transaction(arrivals.url) as session:
        return inquiries.ask(session, lifecycle.find(session, arrivals.uid, lock=True), asked, "tests")


def finish(arrivals: Arrivals, claim: claims.Claim, result: Answer | Diagnosis = ANSWER) -> None:
    with transaction(arrivals.url) as session:
        claims.finish_inquiry(session, claim, result)


def read(arrivals: Arrivals, job_id: uuid.UUID) -> stored.Stored:
    with transaction(arrivals.url) as session:
        found = stored.read(session, job_id)
    assert found is not None
    return found


def violations(url: str) -> set[str]:
    with transaction(url) as session:
        return {violation.rule for violation in invariants.check(session, 3)}


@pytest.fixture
def reported(arrivals: Arrivals) -> Arrivals:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)
    return arrivals


def asked_job(arrivals: Arrivals) -> claims.Claim:
    ask(arrivals)
    claim = arrivals.claim()
    assert claim is not None
    assert claim.kind == JobKind.QUESTION
    return claim


def test_answer_is_stored_with_its_job_and_read_as_it_was(reported: Arrivals) -> None:
    claim = asked_job(reported)
    finish(reported, claim)

    found = read(reported, claim.job_id)
    assert (found.result, found.revision, found.newer_revision) == (ANSWER, 1, None)
    assert reported.state() == "reported"
    assert violations(reported.url) == set()


def test_diagnosis_keeps_vote_model_and_specialists_apart(reported: Arrivals) -> None:
    job_id = ask(reported, Choice(["effusion", "mass"]))
    claim = reported.claim()
    assert claim is not None
    finish(reported, claim, DIAGNOSIS)

    found = read(reported, job_id).result
    assert isinstance(found, Diagnosis)
    assert found == DIAGNOSIS
    assert (found.chosen, found.vote) == (["effusion"], ["effusion"])


def test_diagnosis_without_a_scored_option_has_no_probability(reported: Arrivals) -> None:
    unread = {"cannot_tell": True, "why": "The images contain no diagnostic information."}
    refused = Diagnosis(**PARTS, **unread, options=[], none_of_these=None)  # type: ignore[arg-type]
    job_id = ask(reported, Choice(["effusion", "mass"]))
    claim = reported.claim()
    assert claim is not None
    finish(reported, claim, refused)

    assert read(reported, job_id).result == refused


def test_inquiry_and_answer_are_immutable(reported: Arrivals) -> None:
    finish(reported, asked_job(reported))

    for change in ("UPDATE inquiries SET question = 'x'", "UPDATE answers SET text = 'x'"):
        with pytest.raises(DBAPIError, match="rows are immutable"), transaction(reported.url) as session:
            session.execute(text(change))


def test_inquiry_precedes_routine_and_not_stat(reported: Arrivals) -> None:
    order = {LOW: "low", 0: "routine", STAT: "stat"}
    for level in order:
        study = Arrivals(reported.url)
        study.image(study=StudyAttributes(study.uid, patient_id="P", priority=level))
        study.settle()
    ask(reported)

    taken = [reported.claim() for _ in range(4)]
    assert [(one.kind, one.priority) for one in taken if one] == [
        ("report", STAT),
        ("question", HIGH),
        ("report", 0),
        ("report", LOW),
    ]


def test_turn_of_the_routine_reports_leaves_stat_and_takes_the_inquiry_first(reported: Arrivals) -> None:
    for level in (0, STAT):
        study = Arrivals(reported.url)
        study.image(study=StudyAttributes(study.uid, patient_id="P", priority=level))
        study.settle()
    ask(reported)

    def claim(*, inquiries: bool, routine_only: bool = True) -> str | None:
        with transaction(reported.url) as session:
            found = claims.claim_next(
                session, owner="w", lease_seconds=9, routine_only=routine_only, inquiries=inquiries
            )
            kind = found and f"{found.kind} {found.priority}"
            session.rollback()
        return kind

    assert claim(inquiries=True) == "question 1"
    assert claim(inquiries=False) == "report 0"
    assert claim(inquiries=False, routine_only=False) == f"report {STAT}"


def test_raised_priority_of_the_study_never_lowers_its_inquiry(arrivals: Arrivals) -> None:
    arrivals.image(study=StudyAttributes(arrivals.uid, patient_id="P", priority=LOW))
    arrivals.settle()
    job_id = ask(arrivals)

    with transaction(arrivals.url) as session:
        study = lifecycle.find(session, arrivals.uid, lock=True)
        lifecycle._raise_priority(session, study, 0)
        levels = dict(session.execute(select(Job.id, Job.priority)).all())
    assert levels.pop(job_id) == HIGH
    assert set(levels.values()) == {0}


def test_failed_inquiry_leaves_its_study_and_can_be_retried(reported: Arrivals) -> None:
    claim = asked_job(reported)
    with transaction(reported.url) as session:
        claims.fail(session, claim, "model_error", "x")  # type: ignore[arg-type]
    assert reported.state() == "reported"
    assert violations(reported.url) == set()

    with transaction(reported.url) as session:
        claims.retry_inquiry(session, claim.job_id)
    again = reported.claim()
    assert again is not None
    assert (again.job_id, again.attempt) == (claim.job_id, 1)


def test_lost_worker_fails_the_inquiry_and_not_its_study(reported: Arrivals) -> None:
    lose_worker(reported, asked_job(reported), max_attempts=1)

    with transaction(reported.url) as session:
        job = session.scalars(select(Job).where(Job.kind == "question")).one()
        assert (job.state, job.reason) == ("failed", "worker_lost")
    assert reported.state() == "reported"
    assert violations(reported.url) == set()


def test_second_worker_answers_and_the_first_result_is_dropped(reported: Arrivals) -> None:
    first = asked_job(reported)
    expire_lease(reported.url, first.job_id)
    lose_worker(reported, first)
    second = reported.claim()
    assert second is not None
    assert second.job_id == first.job_id
    assert second.poison_candidate

    with pytest.raises(StaleFence):
        finish(reported, first)
    finish(reported, second)
    assert violations(reported.url) == set()


def test_cancelled_inquiry_has_no_answer(reported: Arrivals) -> None:
    claim = asked_job(reported)
    with transaction(reported.url) as session:
        claims.cancel_inquiry(session, claim.job_id)

    with pytest.raises(StaleFence):
        finish(reported, claim)
    with pytest.raises(NotPossible, match="no open job"), transaction(reported.url) as session:
        claims.cancel_inquiry(session, claim.job_id)


def test_report_cannot_end_the_job_of_an_inquiry(reported: Arrivals) -> None:
    claim = asked_job(reported)

    with pytest.raises(StaleFence), transaction(reported.url) as session:
        claims.finish(session, claim, DRAFT)


def test_late_image_supersedes_the_report_and_no_answer(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    ask(arrivals)
    claim = arrivals.claim()
    assert claim is not None
    assert claim.kind == "question"
    arrivals.image()
    assert arrivals.state() == "receiving"
    finish(arrivals, claim)

    found = read(arrivals, claim.job_id)
    assert (found.revision, found.newer_revision) == (1, 2)
    assert violations(arrivals.url) == set()


def test_conflict_of_identity_ends_the_open_inquiries(reported: Arrivals) -> None:
    claim = asked_job(reported)
    reported.image(study=StudyAttributes(reported.uid, patient_id="OTHER-2", patient_name="OTHER^TWO"))
    assert reported.state() == "held"

    with pytest.raises(StaleFence):
        finish(reported, claim)
    assert violations(reported.url) == set()
    with pytest.raises(NotPossible, match="decide first"):
        ask(reported)


def test_failed_inquiry_of_a_held_study_waits_for_the_decision(reported: Arrivals) -> None:
    claim = asked_job(reported)
    with transaction(reported.url) as session:
        claims.fail(session, claim, "model_error", "x")  # type: ignore[arg-type]
    reported.image(study=StudyAttributes(reported.uid, patient_id="OTHER-2", patient_name="OTHER^TWO"))

    with pytest.raises(NotPossible, match="decide first"), transaction(reported.url) as session:
        claims.retry_inquiry(session, claim.job_id)
    assert violations(reported.url) == set()


def test_figures_of_reports_leave_inquiries_out(reported: Arrivals) -> None:
    with transaction(reported.url) as session:
        before = (overview.counts(session), outcomes.latest(session), queue_figures.durations(session))
    for number in range(3):
        claim = asked_job(reported)
        with transaction(reported.url) as session:
            claims.fail(session, claim, "model_error", f"x{number}")  # type: ignore[arg-type]
    waiting = ask(reported)

    with transaction(reported.url) as session:
        assert (overview.counts(session), outcomes.latest(session), queue_figures.durations(session)) == before
        assert "everything_fails" not in {one.code for one in alarms.raised(session, Settings())}
        assert queue_figures.waiting(session).jobs == 1
        study = lifecycle.find(session, reported.uid)
        assert overview.forecast(session, study.id) is None
        line = overview.study(session, study.id)
        assert line is not None
        assert line.state == "reported"
        assert len(overview.page(session, limit=9).studies) == 1
        assert next(one.id for one in inquiries.of_study(session, study.id)) == waiting


def test_answer_with_a_number_that_is_not_finite_is_refused(reported: Arrivals) -> None:
    claim = asked_job(reported)

    with pytest.raises(PermanentFailure, match="no finite number"):
        finish(reported, claim, replace(ANSWER, confidence=float("nan")))


def case_of(arrivals: Arrivals) -> uuid.UUID:
    with transaction(arrivals.url) as session:
        return reference.add_case(
            session,
            ReferenceCase(source="s", source_case="c", modality="CT", report="Small effusion.", labels=[]),
        )


def quoting(case_id: uuid.UUID) -> Answer:
    finding = GroundedFinding(
        "pleural effusion",
        "left",
        "",
        "",
        "present",
        0,
        3,
        Verdict.SUPPORTED,
        cited=[CitedSentence(1, "affirms", "E.")],
    )
    case = NeighbourCase(case_id, 0.9, "Small effusion.", quoted="Small effusion.", labels=["effusion"])
    return replace(ANSWER, findings=[finding], evidence=[case])


@pytest.mark.parametrize("when", ["before", "after"])
def test_erased_case_leaves_no_word_in_an_answer(reported: Arrivals, when: str) -> None:
    case_id = case_of(reported)
    claim = asked_job(reported)
    erase: Callable[[], None] = lambda: _erase(reported.url, case_id)  # noqa: E731 - two places in time
    if when == "before":
        erase()
        finish(reported, claim, quoting(case_id))
    else:
        finish(reported, claim, quoting(case_id))
        assert read(reported, claim.job_id).result == quoting(case_id)
        erase()

    found = read(reported, claim.job_id).result
    assert found.evidence == [NeighbourCase(None, 0.9, "")]
    assert found.findings[0].cited == []


def _erase(url: str, case_id: uuid.UUID) -> None:
    with transaction(url) as session:
        reference.erase_cases(session, [case_id])


def test_erased_study_takes_inquiries_and_answers_with_it(reported: Arrivals) -> None:
    finish(reported, asked_job(reported), quoting(case_of(reported)))

    with transaction(reported.url) as session:
        retention.delete_studies(session, [lifecycle.find(session, reported.uid, lock=True)])
        for table in ("studies", "jobs", "inquiries", "answers", "answer_evidence"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_study_without_complete_images_is_not_asked_about(arrivals: Arrivals) -> None:
    arrivals.image()
    with pytest.raises(NotPossible, match="still receiving"):
        ask(arrivals)

    other = Arrivals(arrivals.url)
    other.image(reportable=False)
    other.settle()
    with pytest.raises(NotPossible, match="no object that can be reported"):
        ask(other)
    with transaction(arrivals.url) as session:
        assert session.scalar(select(func.count()).select_from(Inquiry)) == 0


def test_open_inquiries_of_a_study_are_limited(reported: Arrivals) -> None:
    for _ in range(inquiries.MAX_OPEN):
        ask(reported)

    with pytest.raises(NotPossible, match="wait for their answers"):
        ask(reported)


DAMAGES = [
    ("DELETE FROM inquiries", "exactly the jobs of inquiries have an inquiry"),
    ("DELETE FROM answers", "exactly the finished jobs of inquiries have an answer"),
    ("UPDATE jobs SET fence = 9 WHERE kind = 'question'", "an answer was written under its job's last fence"),
    ("UPDATE jobs SET kind = 'diagnosis' WHERE kind <> 'report'", "an inquiry has the study and the kind of its job"),
    (
        "UPDATE jobs SET revision = 7 WHERE kind = 'question'",
        "the job of an inquiry belongs to a revision that its study has begun",
    ),
]


def test_damage_of_an_inquiry_violates_its_rule(reported: Arrivals) -> None:
    finish(reported, asked_job(reported))
    for damage, rule in DAMAGES:
        with transaction(reported.url) as session:
            session.execute(text(damage))
            found = {violation.rule for violation in invariants.check(session, 3)}
            session.rollback()
        assert rule in found


def test_two_reports_of_one_revision_are_refused_and_two_questions_are_not(reported: Arrivals) -> None:
    ask(reported)
    ask(reported)

    with transaction(reported.url) as session:
        study = session.scalars(select(Study)).one()
        session.add(Job(study_id=study.id, revision=study.revision))
        with pytest.raises(DBAPIError, match="jobs_report"):
            session.flush()
        session.rollback()
