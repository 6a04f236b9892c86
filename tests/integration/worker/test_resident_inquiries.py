"""The resident writes the result of each kind of job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.answers.answer import Answer, Choice, Diagnosis, Question
from db.reports.versions import Draft
from tests.unit.worker.fakes import FakeModel
from tests.unit.worker.test_pipeline import radiograph
from worker.pipeline.pipeline import StudyToReport
from worker.resident import Resident

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


class PatientsModel(FakeModel):
    """A fake model that may read patients."""

    demo = False


def test_resident_writes_reports_answers_and_diagnoses(settings: Settings, tmp_path: Path) -> None:
    resident = Resident(PatientsModel(scores={"Yes.": -0.1, "nodule": -0.1}), settings)
    images = [radiograph(tmp_path)]

    report, answer, diagnosis = (
        resident.write(StudyToReport(images, inquiry=inquiry), lambda: None)
        for inquiry in (None, Question("Is there a nodule?"), Choice(["nodule", "mass"]))
    )

    assert isinstance(report, Draft)
    assert isinstance(answer, Answer)
    assert answer.text == "Yes."
    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.chosen == ["nodule"]
