"""Question -> answer, with real DICOM objects and a fake model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from db.answers.answer import CANNOT_TELL, Question
from db.answers.scaling import Scaling, ScalingOfTask
from db.errors import PermanentFailure, StaleFence
from db.settings import Settings
from db.states import Calibration, JobKind, Verdict
from tests.unit.worker.fakes import CASE, FakeIndex, FakeModel, compared
from tests.unit.worker.test_pipeline import radiograph
from tests.unit.worker.test_pipeline_grounds import LABELS
from worker.pipeline.answering import answer
from worker.pipeline.pipeline import StudyToReport
from worker.pipeline.question_forms import NEGATED_QUESTION, WORDS_NOT_READ
from worker.pipeline.study_reader import StudyReader

if TYPE_CHECKING:
    from pathlib import Path

    from db.answers.answer import Answer
    from worker.images.study import StoredInstance

YES = {"Yes.": -0.1, "No.": -3.0}
NO = {"Yes.": -3.0, "No.": -0.1}


def asked(
    instances: list[StoredInstance],
    model: Any,
    text: str,
    index: FakeIndex | None = None,
    on_progress: Any = lambda: None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    **reader: Any,
) -> Answer:
    read = StudyReader(model, index, lambda ids: dict.fromkeys(ids, "No effusion."), settings, **reader)
    return answer(read, StudyToReport(instances, patient_hashes=frozenset("p")), Question(text), on_progress)


class SideInSecondPart(FakeModel):
    """Answers with a side from the third request on."""

    def _score(self, text: str, prompt: str) -> float:
        if len(self.requests) > 2:
            return 0.0 if text == "Left." else -9.0
        return super()._score(text, prompt)


def test_answer_is_compared_with_the_others_that_were_possible(tmp_path: Path) -> None:
    model = FakeModel("Yes.", scores=YES)

    found = asked([radiograph(tmp_path)], model, "Is there a nodule?")

    written, scored = model.requests
    assert written.question == scored.question
    assert written.question.endswith(
        "based on the images about x-ray. Your answer should be concise. Is there a nodule?"
    )
    assert {"Yes.", "No.", "Left.", "Cannot tell from these images."} <= set(scored.options)
    assert (found.text, found.model_text, found.cannot_tell, found.why) == ("Yes.", "Yes.", False, "")
    assert found.confidence is not None
    # Every other form has -9 in the fake.
    assert 0.92 < found.confidence < 1 / (1 + math.exp(-2.9))
    assert (found.min_confidence, found.calibration) == (0.5, Calibration.UNCALIBRATED)
    assert found.provenance["calibration"]["DX CHEST"]["reason"] == "`prelim calibrate --task` was never run here"


def test_answer_shows_images_and_cases_that_it_rests_on(tmp_path: Path) -> None:
    index = FakeIndex(labels=LABELS)

    found = asked([radiograph(tmp_path)], FakeModel("Yes.", scores=YES), "Is there a left pleural effusion?", index)

    (image,), (case,), (finding,) = found.images, found.evidence, found.findings
    assert (image.number, image.frame, found.basis) == (1, 0, "1 of 1 views")
    assert (case.case_id, case.excerpt, case.quoted) == (CASE, "No effusion.", "")
    assert (finding.name, finding.side, finding.certainty) == ("pleural effusion", "left", "present")
    assert found.text[finding.start : finding.end] == "Yes."
    assert finding.verdict == Verdict.PICTURE_ONLY
    assert finding.in_image is not None
    assert finding.in_image.region == [0.5, 0.0, 0.5, 0.5]
    assert [(one.rank, one.stance) for one in finding.cited] == [(1, "denies")]
    assert index.searches[0]["patient_hashes"] == {"p"}


def test_affirmed_finding_that_the_images_do_not_show_is_vetoed(tmp_path: Path) -> None:
    index = FakeIndex(labels=LABELS)

    found = asked([radiograph(tmp_path)], FakeModel("Yes.", scores=YES), "Is there a right pleural effusion?", index)

    assert (found.text, found.cannot_tell, found.findings) == (CANNOT_TELL, True, [])
    assert found.model_text == "Yes."
    assert (
        found.why == "The model affirms right pleural effusion, but the score of the images for it is 0.50, below 1.00."
    )


@pytest.mark.parametrize(("side", "text"), [("Left.", "Left."), ("Right.", CANNOT_TELL)])
def test_side_is_vetoed_if_the_images_do_not_show_the_finding_there(tmp_path: Path, side: str, text: str) -> None:
    model = FakeModel(side, scores={side: -0.1})

    found = asked([radiograph(tmp_path)], model, "On which side is the pleural effusion?", FakeIndex(labels=LABELS))

    assert found.text == text


def test_inverted_question_is_not_told_although_the_images_show_the_finding(tmp_path: Path) -> None:
    model = FakeModel("Left.", scores={"Left.": -0.1})

    found = asked([radiograph(tmp_path)], model, "Which side has no pleural effusion?", FakeIndex(labels=LABELS))

    assert (found.text, found.cannot_tell, found.findings) == (CANNOT_TELL, True, [])
    assert (found.model_text, found.why) == ("Left.", NEGATED_QUESTION)


def test_one_shown_finding_does_not_carry_another_one(tmp_path: Path) -> None:
    text = "Left pleural effusion, right pleural effusion."
    model = FakeModel(text, scores={text: -0.1})

    found = asked([radiograph(tmp_path)], model, "What is abnormal?", FakeIndex(labels=LABELS))

    assert found.text == CANNOT_TELL
    assert found.why.startswith("The model affirms right pleural effusion, but")


def test_qualified_question_is_vetoed_or_named_as_unchecked(tmp_path: Path) -> None:
    index = FakeIndex(labels=LABELS)

    left, right = (
        asked(
            [radiograph(tmp_path)], FakeModel("Yes.", scores=YES), f"Is the {side} pleural effusion loculated?", index
        )
        for side in ("left", "right")
    )

    assert (left.text, left.findings) == ("Yes.", [])
    assert WORDS_NOT_READ in left.limitations
    assert right.text == CANNOT_TELL


def test_denied_finding_that_the_images_suspect_is_named(tmp_path: Path) -> None:
    left, right = (
        asked(
            [radiograph(tmp_path)],
            FakeModel("No.", scores=NO),
            f"Any {side} pleural effusion?",
            FakeIndex(labels=LABELS),
        )
        for side in ("left", "right")
    )

    (said,) = [sentence for sentence in left.limitations if "denies" in sentence]
    assert said.startswith("The model denies left pleural effusion, but the score of the images for it is ")
    assert (left.text, left.findings[0].certainty) == ("No.", "absent")
    assert not any("denies" in sentence for sentence in right.limitations)


def test_denial_states_an_absent_finding_and_is_not_vetoed(tmp_path: Path) -> None:
    found = asked(
        [radiograph(tmp_path)], FakeModel("No.", scores=NO), "Any right pleural effusion?", FakeIndex(labels=LABELS)
    )

    (finding,) = found.findings
    assert (found.text, finding.certainty) == ("No.", "absent")


def test_answer_below_its_limit_cannot_be_told_and_says_so(tmp_path: Path) -> None:
    scores = {"Yes.": -1.0, "No.": -1.1, "Left.": -1.1}

    found = asked([radiograph(tmp_path)], FakeModel("Yes.", scores=scores), "Is there a dinosaur?")

    assert (found.text, found.cannot_tell, found.model_text) == (CANNOT_TELL, True, "Yes.")
    assert found.why == "The confidence of the model's answer is 0.36, below the limit of 0.50."


def test_model_that_does_not_tell_is_believed(tmp_path: Path) -> None:
    model = FakeModel("Cannot tell from these images.", scores={"Cannot tell from these images.": -0.1})

    found = asked([radiograph(tmp_path)], model, "On which side is the pneumothorax?")

    assert (found.text, found.why) == (CANNOT_TELL, "The model's answer is that the images do not tell.")


def test_free_answer_gets_the_probability_of_its_words(tmp_path: Path) -> None:
    text = "Upper zone of the left lung."

    found = asked([radiograph(tmp_path)], FakeModel(text, scores={text: -1.0}), "Where is the nodule?")

    # Each of its words has -0.5 in the fake.
    assert (found.text, found.confidence) == (text, pytest.approx(math.exp(-0.5)))


def test_calibrated_scaling_and_limit_are_applied_and_named(tmp_path: Path) -> None:
    scaling = ScalingOfTask({"yes_no": Scaling(0.1, 0.0, 0.7)}, {"kind": "phantoms", "studies": 200})

    found = asked(
        [radiograph(tmp_path)],
        FakeModel("Yes.", scores=YES),
        "Is there a nodule?",
        scaling={JobKind.QUESTION: scaling},
    )

    assert found.confidence == pytest.approx(0.57, abs=0.01)
    assert (found.text, found.min_confidence, found.calibration) == (CANNOT_TELL, 0.7, Calibration.CERTIFIED)
    assert found.provenance["calibration"]["DX CHEST"]["case_set"] == {"kind": "phantoms", "studies": 200}


def test_images_that_the_model_must_not_read_are_not_asked_about(tmp_path: Path) -> None:
    model = FakeModel("Yes.", scores=YES)

    blank = asked([radiograph(tmp_path, blank=True)], model, "Is there a nodule?")
    refused = asked([radiograph(tmp_path)], model, "Is there a nodule?", FakeIndex(ood=compared(4.2)))

    assert model.requests == []
    assert (blank.text, blank.confidence, blank.why) == (
        CANNOT_TELL,
        None,
        "The images contain no diagnostic information.",
    )
    assert refused.why.startswith("Not analysed: the images are out of distribution for chest x-ray images")


def test_each_part_of_a_study_gets_its_own_answer(tmp_path: Path) -> None:
    parts = [radiograph(tmp_path), radiograph(tmp_path, name="2.dcm", body_part="HEAD", turned=True)]

    found = asked(parts, FakeModel("Yes.", scores=YES), "Is there a fracture?")

    assert found.text == "DX HEAD: Yes. DX CHEST: Yes."


def test_answer_names_its_part_and_says_which_was_not_read(tmp_path: Path) -> None:
    parts = [radiograph(tmp_path), radiograph(tmp_path, name="2.dcm", body_part="HEAD", blank=True)]

    found = asked(parts, FakeModel("Yes.", scores=YES), "Is there a fracture?")

    assert found.text == "DX CHEST: Yes."
    assert "DX HEAD: The images contain no diagnostic information." in found.limitations


def test_confidence_is_certified_only_if_that_of_every_part_is(tmp_path: Path) -> None:
    parts = [radiograph(tmp_path), radiograph(tmp_path, name="2.dcm", body_part="HEAD", turned=True)]
    scaling = {JobKind.QUESTION: ScalingOfTask({"yes_no": Scaling()})}

    found = asked(parts, SideInSecondPart(scores=YES), "Is there a fracture?", scaling=scaling)

    # The less confident part is the certified one.
    assert found.text == "DX HEAD: Yes. DX CHEST: Left."
    assert found.confidence == pytest.approx(0.94, abs=0.01)
    assert found.calibration == Calibration.UNCALIBRATED


def test_invalid_question_and_lost_job_end_the_work(tmp_path: Path) -> None:
    def lost() -> None:
        raise StaleFence("taken away")

    with pytest.raises(PermanentFailure, match="invalid_question"):
        asked([radiograph(tmp_path)], FakeModel(), "<|im_end|>")
    with pytest.raises(StaleFence):
        asked([radiograph(tmp_path)], FakeModel(), "Is there a nodule?", on_progress=lost)
