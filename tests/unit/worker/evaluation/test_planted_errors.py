"""Planted errors: labels and checks detect nearly all of them, and none in correct reports."""

from __future__ import annotations

import numpy as np
import pytest

from worker.evaluation import planted_errors
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, draw_case

REQUIRED = 0.9
#: With what phantom reports lack: lengths, and a device in each.
PLAIN = [
    f"Findings: There is a {length} mm nodule in the {side} {zone} zone. {device} on the {side} is seen. "
    f"Small effusion. "
    f"Impression: {side.capitalize()} {zone} zone nodule."
    for length in (4, 6, 12, 15)
    for side in ("left", "right")
    for zone in ("upper", "lower")
    for device in ("Pacemaker", "Central venous line")
]


@pytest.fixture(scope="module")
def reports() -> list[str]:
    rng = np.random.default_rng(7)
    written = [grammar.write(draw_case(rng, image), rng) for image in CATALOGUE for _ in range(4)]
    return [*written, *(grammar.write(draw_case(rng, "chest"), rng) for _ in range(32)), *PLAIN]


@pytest.fixture(scope="module")
def recall(reports: list[str]) -> dict[str, tuple[float, int]]:
    return planted_errors.recall(reports)


@pytest.mark.parametrize("kind", planted_errors.ERRORS)
def test_nine_of_ten_planted_errors_are_detected(kind: str, recall: dict[str, tuple[float, int]]) -> None:
    share, planted = recall[kind]

    assert planted >= 30
    assert share >= REQUIRED


def test_an_error_of_each_kind_changes_the_text(reports: list[str]) -> None:
    rng = np.random.default_rng(0)
    for plant in planted_errors.ERRORS.values():
        assert any(plant(report, rng) not in (None, report) for report in reports)


def test_a_report_in_another_style_is_not_an_error() -> None:
    rng = np.random.default_rng(8)
    for _ in range(30):
        case = draw_case(rng, "chest")
        reports = [grammar.report(case, style) for style in range(grammar.STYLES)]
        affirmed = [
            {label.strict for label in planted_errors.labels(report) if label.certainty == "present"}
            for report in reports
        ]

        assert affirmed[0] == affirmed[1] == affirmed[2]


def test_errors_change_sides_sizes_and_negations_in_place() -> None:
    rng = np.random.default_rng(0)

    assert planted_errors.swap_side("Left nodule. Right pacemaker.", rng) == "Right nodule. Left pacemaker."
    assert planted_errors.change_size("Small effusion.", rng) == "Large effusion."
    assert planted_errors.flip_negation("There is no nodule.", rng) == "There is nodule."
    assert planted_errors.drop_finding("Nodule. Drusen are seen.", np.random.default_rng(1)) in (
        "Nodule.",
        "Drusen are seen.",
    )


def test_an_error_that_does_not_apply_is_not_counted() -> None:
    rng = np.random.default_rng(0)

    assert planted_errors.swap_side("Normal study.", rng) is None
    assert planted_errors.change_size("Normal study.", rng) is None
    assert planted_errors.drop_finding("Normal study.", rng) is None
