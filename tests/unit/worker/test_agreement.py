"""A case whose report does not agree with its images is found among the cases of other patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worker.reference_build.agreement import FOLDS, disagreements
from worker.retrieval.archive import ArchivedCase, IndexedCase

LABELS = ("nodule left", "pleural effusion right", "free air")


def cases(count: int, *, shared: int = 0, strength: float = 4) -> list[ArchivedCase]:
    """Return cases of different patients, a third with each label; *shared* images more are of each patient.

    *strength* is the size of a label in the tokens, whose noise is 0.7.
    """
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((len(LABELS), 4, 8)) * strength
    made = []
    for number in range(count):
        tokens = rng.standard_normal((1 + shared, 1, 4, 8)) * 0.7
        # One image of a case shows it.
        tokens[0, 0] += directions[number % len(LABELS)]
        row = IndexedCase(f"case {number}", "DX", patient_hash=f"patient {number}")
        made.append(ArchivedCase(row, tokens.astype(np.float16), [LABELS[number % len(LABELS)]]))
    return made


def test_at_most_one_in_twenty_of_the_cases_that_agree_is_named() -> None:
    assert len(disagreements(cases(60, shared=1))) <= 3


def test_labels_that_are_predicted_poorly_name_hardly_any_case_that_agrees() -> None:
    assert len(disagreements(cases(60, strength=0.4))) <= 3


def test_the_report_of_another_case_is_named_with_what_the_images_show() -> None:
    known = cases(60)
    known[6] = replace(known[6], labels=known[7].labels)

    assert disagreements(known) == {
        "case 6": "report and images disagree: the images do not show pleural effusion right;"
        " the images show nodule left, which the report does not affirm"
    }


def test_a_report_without_findings_under_images_with_one_is_named() -> None:
    known = cases(60)
    known[6] = replace(known[6], labels=[])

    assert list(disagreements(known)) == ["case 6"]


def test_a_label_of_few_patients_decides_nothing() -> None:
    known = cases(60)
    known[6] = replace(known[6], labels=[*known[6].labels, "spinal rods"])

    assert disagreements(known) == {}
    assert disagreements(known[:9]) == {}


def test_a_label_that_only_the_predicted_patients_have_decides_nothing() -> None:
    """Patients are predicted from those of the other parts, none of which may have the label."""
    known = []
    for number, case in enumerate(cases(64)):
        # In the order of the parts.
        row = replace(case.case, patient_hash=f"patient {number:02}")
        known.append(replace(case, case=row, labels=["free air"] if number % FOLDS == 0 else []))

    assert disagreements(known) == {}


def test_cases_of_one_patient_do_not_vouch_for_each_other() -> None:
    """A patient's images resemble each other: ten copies of a wrong pair would agree among themselves."""
    known = cases(60)
    wrong = replace(known[6], labels=known[7].labels)
    copies = [replace(wrong, case=replace(wrong.case, case_id=f"copy {number}")) for number in range(10)]

    assert set(disagreements([*known, *copies])) >= {f"copy {number}" for number in range(10)}


def test_images_that_are_all_equal_tell_nothing() -> None:
    even = [replace(case, tokens=np.ones_like(case.tokens)) for case in cases(60)]

    assert disagreements(even) == {}
