"""Grounds of a report are stored with it; erasing a case erases its words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import text

from db import reference
from db.jobs import claims
from db.migrations.upgrade import alembic_config, migrate
from db.models import ReferenceCase, Study
from db.reports import complete, versions
from db.reports.grounds import (
    CitedSentence,
    GroundedFinding,
    GroundedSentence,
    Grounds,
    InImage,
    OmittedFinding,
)
from db.session import transaction
from db.states import Calibration, Verdict

if TYPE_CHECKING:
    import uuid

    from tests.integration.db.conftest import Arrivals

IN_IMAGE = InImage(2.5, 1.25, 1, [0.5, 2.0], [0.0, 0.5, 0.25, 0.25])
EFFUSION = GroundedFinding(
    "pleural effusion", "left", "", "small", "present", 11, 27, Verdict.SUPPORTED, IN_IMAGE, -0.25,
    [CitedSentence(1, "affirms", "Left effusion in an earlier case.")],
)  # fmt: skip
DENIAL = GroundedFinding("pneumothorax", "", "", "", "absent", 32, 44, Verdict.NOT_MEASURABLE)
GROUNDS = Grounds(
    [
        GroundedSentence("findings", 0, 28, [EFFUSION]),
        GroundedSentence("findings", 29, 45, [DENIAL]),
        GroundedSentence("impression", 0, 6),
    ],
    [OmittedFinding("nodule", "right", IN_IMAGE)],
)


def reported(arrivals: Arrivals, stored: Grounds | None, *, erased: bool = False) -> uuid.UUID:
    with transaction(arrivals.url) as session:
        case = ReferenceCase(
            source="s", source_case="1", modality="DX", report="Left effusion in an earlier case.", labels=[]
        )
        session.add(case)
        session.flush()
        quoted = versions.Quoted(case.id, 0.9, case.report)
    claim = arrivals.running_job()
    draft = versions.Draft(
        "There is a pleural effusion. No pneumothorax.",
        "Normal",
        "1 of 1 images",
        "1",
        "d",
        {},
        [],
        [quoted],
        grounds=stored,
    )
    if erased:
        with transaction(arrivals.url) as session:
            reference.erase_cases(session, [case.id])
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, draft)
    return claim.study_id


def read(arrivals: Arrivals, study_id: uuid.UUID) -> Grounds | None:
    with transaction(arrivals.url) as session:
        report = complete.Query().read(session, study_id)
        assert report is not None
        return report.grounds


def test_grounds_are_read_as_they_were_stored(arrivals: Arrivals) -> None:
    assert read(arrivals, reported(arrivals, GROUNDS)) == GROUNDS


def test_texts_of_a_study_are_found_by_its_uid(arrivals: Arrivals) -> None:
    study_id = reported(arrivals, GROUNDS)

    with transaction(arrivals.url) as session:
        study = session.get(Study, study_id)
        assert study is not None
        texts = versions.texts(session, study.study_instance_uid)
        assert versions.texts(session, "1.2.3") == []
    assert texts == ["There is a pleural effusion. No pneumothorax. Normal"]


def test_report_of_an_earlier_version_has_no_grounds(arrivals: Arrivals) -> None:
    assert read(arrivals, reported(arrivals, None)) is None


def test_erasing_a_case_erases_its_words_in_every_report(arrivals: Arrivals) -> None:
    study_id = reported(arrivals, GROUNDS)

    with transaction(arrivals.url) as session:
        session.execute(text("DELETE FROM reference_cases"))

    left = read(arrivals, study_id)
    assert left is not None
    (cited,) = left.sentences[0].findings[0].cited
    assert cited == CitedSentence(1, "affirms", "")
    with transaction(arrivals.url) as session:
        report = versions.current(session, study_id)
        assert report is not None
        (case,) = versions.evidence(session, report.id)
        assert (case.case_id, case.excerpt) == (None, "")
        remaining = session.scalars(text("SELECT string_agg(to_jsonb(c)::text, ' ') FROM report_citations c")).one()
    assert "earlier case" not in remaining


def test_report_whose_case_is_erased_while_it_is_written_is_stored_without_its_words(arrivals: Arrivals) -> None:
    study_id = reported(arrivals, GROUNDS, erased=True)

    left = read(arrivals, study_id)
    assert left is not None
    assert left.sentences[0].findings[0].cited == [CitedSentence(1, "affirms", "")]
    with transaction(arrivals.url) as session:
        report = versions.current(session, study_id)
        assert report is not None
        cases = versions.evidence(session, report.id)
        words = session.scalars(text("SELECT string_agg(to_jsonb(e)::text, ' ') FROM report_evidence e")).one()
    assert [(case.case_id, case.excerpt, case.quoted) for case in cases] == [(None, "", "")]
    assert "earlier case" not in words
    assert versions.erased(cases) == ["1 of 1 similar earlier case has been erased since this report was written."]


def test_calibration_of_the_verdicts_is_stored(arrivals: Arrivals) -> None:
    stored = read(arrivals, reported(arrivals, replace(GROUNDS, calibration=Calibration.CERTIFIED)))

    assert stored is not None
    assert stored.calibration == Calibration.CERTIFIED


def test_words_of_cases_erased_before_are_erased_by_the_migration(arrivals: Arrivals) -> None:
    study_id = reported(arrivals, None)
    command.downgrade(alembic_config(arrivals.url), "0014")
    with transaction(arrivals.url) as session:
        session.execute(text("DELETE FROM reference_cases"))
        assert session.scalar(text("SELECT excerpt FROM report_evidence")) == "Left effusion in an earlier case."
    migrate(arrivals.url)

    with transaction(arrivals.url) as session:
        report = versions.current(session, study_id)
        assert report is not None
        assert [case.excerpt for case in versions.evidence(session, report.id)] == [""]


@pytest.mark.parametrize("section", ["findings", "impression"])
def test_a_report_is_deleted_with_its_grounds(arrivals: Arrivals, section: str) -> None:
    reported(arrivals, replace(GROUNDS, sentences=[GroundedSentence(section, 0, 3, [EFFUSION])]))

    with transaction(arrivals.url) as session:
        session.execute(text("DELETE FROM reports"))
        assert session.scalar(text("SELECT count(*) FROM report_citations")) == 0
