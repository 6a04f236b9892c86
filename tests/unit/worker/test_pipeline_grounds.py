"""The draft's findings rest on the quoted cases, on the images in distribution and on the model's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from db.reports.grounds import is_flagged
from db.states import Verdict
from tests.unit.worker.fakes import CASE, FakeIndex, FakeModel, compared
from tests.unit.worker.test_pipeline import radiograph, write
from worker.retrieval.label_regression import LabelScores

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.grounds import GroundedFinding
    from db.reports.versions import Draft

TEXT = "Findings: Left pleural effusion. Right pleural effusion. Impression: No effusion."
SHARES = np.zeros((1, 4, 2), np.float32)
SHARES[0, 1] = 2.0, 0.5
LABELS = LabelScores(("pleural effusion left", "pleural effusion right"), *np.ones((2, 2), np.float32), SHARES)


def findings(draft: Draft) -> list[GroundedFinding]:
    assert draft.grounds is not None
    return [finding for sentence in draft.grounds.sentences for finding in sentence.findings]


def test_finding_that_no_quoted_case_affirms_says_so(tmp_path: Path) -> None:
    # The fake index quotes one case: "No effusion."
    draft = write([radiograph(tmp_path)], FakeModel(TEXT), FakeIndex(labels=LABELS))

    left, right, denial = findings(draft)
    assert (left.verdict, right.verdict) == (Verdict.PICTURE_ONLY, Verdict.CONTRADICTED)
    assert (denial.certainty, denial.verdict) == ("absent", Verdict.CONTRADICTED)
    assert [is_flagged(one.certainty, one.verdict) for one in (left, right, denial)] == [False, True, True]
    assert [(one.rank, one.stance, one.sentence) for one in left.cited] == [(1, "denies", "No effusion.")]
    assert left.in_image is not None
    assert (left.in_image.image, left.in_image.region) == (1, [0.5, 0.0, 0.5, 0.5])
    assert left.log_prob == -1.0


def test_study_without_an_index_or_out_of_distribution_is_not_measurable(tmp_path: Path) -> None:
    not_compared = write([radiograph(tmp_path)], FakeModel(TEXT))
    # Too few reference cases to reject it: it is written, without cases.
    out_of_distribution = FakeIndex(labels=LABELS, ood=compared(4.2, can_reject=False))
    without_cases = write([radiograph(tmp_path)], FakeModel(TEXT), out_of_distribution)

    for draft in (not_compared, without_cases):
        assert {one.verdict for one in findings(draft)} == {Verdict.NOT_MEASURABLE}
        assert {one.in_image for one in findings(draft)} == {None}


def test_characters_that_cannot_be_stored_do_not_move_the_offsets(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel("Findings: Clear\0 heart.\0 Left pleural effusion."), FakeIndex())

    assert draft.grounds is not None
    spans = [draft.findings[one.start : one.end] for one in draft.grounds.sentences]
    assert spans == ["Clear heart.", "Left pleural effusion."]


def test_scores_are_computed_without_the_quoted_cases_and_their_number_is_stored(tmp_path: Path) -> None:
    index = FakeIndex(labels=LABELS._replace(left_out=1))

    draft = write([radiograph(tmp_path)], FakeModel(TEXT), index)

    (scored,) = index.scored
    assert scored["without"] == {CASE}
    assert {"patient_hashes", "study_hash"} < scored.keys()
    assert draft.provenance["left_out_of_scores"] == 1
