"""The scaling of the confidence of answers holds for exactly one checkpoint, prompt, index and labeller."""

from __future__ import annotations

from dataclasses import replace

from db.answers import scalings
from db.answers.scaling import Scaling, ScalingOfTask
from db.reports.certificates import Bindings
from db.session import transaction
from db.states import Calibration, JobKind

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

    assert found[JobKind.QUESTION] == FITTED
    assert found[JobKind.QUESTION].of("yes_no") == (Scaling(0.5, 0.1, 0.7), Calibration.CERTIFIED)
    assert found[JobKind.QUESTION].of("side") == (Scaling(), Calibration.UNCALIBRATED)
    assert found[JobKind.DIAGNOSIS] == ScalingOfTask()
    assert other[JobKind.QUESTION].kinds == {}
    assert "holds for another checkpoint; run" in other[JobKind.QUESTION].reason
