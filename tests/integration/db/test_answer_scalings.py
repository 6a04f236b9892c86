"""The scaling of the confidence of answers holds for exactly one checkpoint, prompt, index and labeller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from db.answers import inquiries, scalings, stored
from db.answers.scaling import Scaling, ScalingOfTask
from db.jobs import claims
from db.reports.certificates import Bindings
from db.session import transaction
from db.states import Calibration, JobKind
from db.studies import lifecycle
from deploy.cli import app
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.db.jobs.test_inquiries import ANSWER, QUESTION

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals

BINDINGS = Bindings("model", "2", "snapshot", "8")
FITTED = ScalingOfTask({"yes_no": Scaling(0.5, 0.1, 0.7)}, {"kind": "phantoms"})


def test_newest_scaling_of_the_same_bindings_holds(database_url: str) -> None:
    with transaction(database_url) as session:
        assert scalings.standing(session, BINDINGS)[JobKind.QUESTION] == ScalingOfTask()
        scalings.add(session, BINDINGS, JobKind.QUESTION, ScalingOfTask({"side": Scaling()}))
    with transaction(database_url) as session:
        scalings.add(session, BINDINGS, JobKind.QUESTION, FITTED)
    with transaction(database_url) as session:
        found = scalings.standing(session, BINDINGS)
        other = scalings.standing(session, replace(BINDINGS, model_digest="another"))

    assert replace(found[JobKind.QUESTION], id="") == FITTED
    assert found[JobKind.QUESTION].of("yes_no") == (Scaling(0.5, 0.1, 0.7), Calibration.CERTIFIED)
    assert found[JobKind.QUESTION].of("side") == (Scaling(), Calibration.UNCALIBRATED)
    assert found[JobKind.DIAGNOSIS] == ScalingOfTask()
    assert other[JobKind.QUESTION].kinds == {}
    assert "holds for another checkpoint; run" in other[JobKind.QUESTION].reason
    assert "another" not in found[JobKind.QUESTION].figures("side")["reason"]


@pytest.mark.parametrize("changed", ["model_digest", "prompt_version", "snapshot", "labeller"])
def test_scaling_does_not_hold_for_another_checkpoint_prompt_index_or_labeller(database_url: str, changed: str) -> None:
    with transaction(database_url) as session:
        for task in (JobKind.QUESTION, JobKind.DIAGNOSIS):
            scalings.add(session, BINDINGS, task, FITTED)
        found = scalings.standing(session, replace(BINDINGS, **{changed: "another"}))

    for task in (JobKind.QUESTION, JobKind.DIAGNOSIS):
        assert found[task].of("yes_no") == (Scaling(), Calibration.UNCALIBRATED)
        assert "holds for another" in found[task].figures("yes_no")["reason"]


def test_suspended_scaling_does_not_hold_until_a_new_one_is_made(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", database_url)
    with transaction(database_url) as session:
        for task in (JobKind.QUESTION, JobKind.DIAGNOSIS):
            scalings.add(session, BINDINGS, task, FITTED)

    done = CliRunner().invoke(app.app, ["calibrate", "--suspend", "the error rose", "--task", "question"])
    assert done.output == "suspended calibrations of question: 1\n"
    with transaction(database_url) as session:
        found = scalings.standing(session, BINDINGS)
        assert found[JobKind.QUESTION].of("yes_no") == (Scaling(), Calibration.SUSPENDED)
        assert found[JobKind.QUESTION].figures("yes_no")["reason"] == "the error rose"
        assert found[JobKind.DIAGNOSIS].of("yes_no")[1] == Calibration.CERTIFIED
    with transaction(database_url) as session:
        scalings.add(session, BINDINGS, JobKind.QUESTION, FITTED)
    with transaction(database_url) as session:
        assert scalings.standing(session, BINDINGS)[JobKind.QUESTION].of("yes_no")[1] == Calibration.CERTIFIED


def test_answer_names_the_standing_of_its_confidence_and_a_later_suspension(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        scalings.add(session, BINDINGS, JobKind.QUESTION, FITTED)
    with transaction(arrivals.url) as session:
        figures = scalings.standing(session, BINDINGS)[JobKind.QUESTION].figures("yes_no")
        other = scalings.standing(session, replace(BINDINGS, snapshot="b"))[JobKind.QUESTION].figures("yes_no")
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)

    def answered(figures: dict[str, object]) -> tuple[Calibration, str]:
        with transaction(arrivals.url) as session:
            asked = inquiries.ask(session, lifecycle.find(session, arrivals.uid, lock=True), QUESTION, "tests")
        result = replace(ANSWER, calibration=figures["status"], provenance={"calibration": {"DX CHEST": figures}})
        claim = arrivals.claim()
        assert claim is not None
        with transaction(arrivals.url) as session:
            claims.finish_inquiry(session, claim, result)
        asked_ids.append(asked)
        return standing(asked)

    def standing(asked: object) -> tuple[Calibration, str]:
        with transaction(arrivals.url) as session:
            found = stored.read(session, asked)  # type: ignore[arg-type]
        assert found is not None
        return found.calibration, found.calibration_reason

    asked_ids: list[object] = []
    assert answered(figures) == (Calibration.CERTIFIED, "")
    status, reason = answered(other)
    assert (status, "holds for another reference index" in reason) == (Calibration.UNCALIBRATED, True)

    with transaction(arrivals.url) as session:
        scalings.suspend(session, JobKind.QUESTION, "the error rose")
    assert standing(asked_ids[0]) == (Calibration.SUSPENDED, "the error rose")
    assert standing(asked_ids[1]) == (status, reason)
