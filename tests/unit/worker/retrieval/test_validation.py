"""A kind of study is validated by findings, sides and zones on held-out cases of the site's archive."""

from __future__ import annotations

from worker.retrieval.validation import MIN_CASES, MIN_FINDINGS, Validation, held_out, measured, validation_of

LEFT = "Findings: Small left pleural effusion. Impression: Small left pleural effusion."
RIGHT = LEFT.replace("left", "right")
NORMAL = "Findings: No effusion. Impression: Normal chest."


def test_a_finding_on_the_other_side_is_wrong() -> None:
    results = measured([("DX CHEST", LEFT, LEFT), ("DX CHEST", LEFT, RIGHT), ("DX CHEST", NORMAL, NORMAL)])

    assert results == {"DX CHEST": Validation(cases=3, reported=2, generated=2, right=1)}
    assert results["DX CHEST"].f1 == 0.5


def test_a_model_that_cannot_read_a_site_is_not_validated_there() -> None:
    (poor,) = measured([("DX CHEST", LEFT, RIGHT)] * 20).values()
    (good,) = measured([("DX CHEST", LEFT, LEFT)] * 20).values()

    assert not poor.reaches(0.5)
    assert good.reaches(0.5)


def test_few_cases_validate_nothing() -> None:
    assert not Validation(MIN_CASES - 1, 9, 9, 9).reaches(0.5)
    assert not Validation().reaches(0.0)


def test_cases_without_findings_validate_nothing() -> None:
    (normal,) = measured([("DX CHEST", NORMAL, NORMAL)] * 20).values()

    assert normal.f1 == 1
    assert not normal.reaches(0.5)
    assert not Validation(20, MIN_FINDINGS - 1, 9, 7).reaches(0.5)
    assert Validation(20, MIN_FINDINGS, 9, 8).reaches(0.5)


def test_figures_are_found_by_family_and_body_part() -> None:
    figures = {"validation": {"DX CHEST": Validation(12, 10, 10, 9).figures()}}

    assert validation_of(figures, "CR", "CHEST") == Validation(12, 10, 10, 9)
    assert validation_of(figures, "CR", "HAND") == Validation()
    assert validation_of({}, "CR", "CHEST") == Validation()


def test_one_case_of_each_chosen_patient_is_held_out() -> None:
    kinds = ["DX CHEST"] * 9 + ["CT HEAD"]
    owners = ["a", "a", "b", "c", "d", "e", "f", "g", "h", "i"]

    chosen = held_out(kinds, owners, 3)

    assert chosen[-1] == 9
    assert len(chosen) == 4
    assert len({owners[number] for number in chosen}) == 4
    assert held_out([], [], 3) == []
