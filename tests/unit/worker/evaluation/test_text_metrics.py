"""Text metrics: known pairs give known values."""

from __future__ import annotations

import math

import pytest

from worker.evaluation import text_metrics
from worker.evaluation.text_metrics import Pair

EFFUSION_LEFT = "Small left pleural effusion."
EFFUSION_RIGHT = "Small right pleural effusion."
NORMAL = "Normal study."


def pairs(*texts: tuple[str, str]) -> list[Pair]:
    return [Pair.of(reference, written) for reference, written in texts]


def test_a_wrong_side_counts_as_a_finding_but_not_strictly() -> None:
    wrong_side = pairs((EFFUSION_LEFT, EFFUSION_RIGHT))

    assert text_metrics.finding_f1(wrong_side) == 1
    assert text_metrics.strict_f1(wrong_side) == 0
    assert text_metrics.laterality(wrong_side) == 0
    assert text_metrics.hallucinated(wrong_side) == 0


def test_sides_are_compared_for_findings_on_both_sides() -> None:
    both = "Bilateral pleural effusions."

    assert text_metrics.laterality(pairs((both, both))) == 1
    assert text_metrics.laterality(pairs((both, EFFUSION_LEFT), (EFFUSION_LEFT, both), (both, both))) == pytest.approx(
        1 / 3
    )


def test_sizes_are_compared_on_the_same_side() -> None:
    large = "Large left pleural effusion."

    assert text_metrics.sizes(pairs((EFFUSION_LEFT, large), (large, large))) == 0.5
    assert math.isnan(text_metrics.sizes(pairs((EFFUSION_LEFT, EFFUSION_RIGHT), ("Left effusion.", large))))


def test_sentences_and_contradicting_reports_are_counted() -> None:
    written = pairs((EFFUSION_LEFT, "Left effusion. Left nodule. Normal heart."), (EFFUSION_LEFT, "Nodule. No nodule."))

    assert text_metrics.FIGURES["sentences_right"](written) == 0.5
    assert text_metrics.FIGURES["contradicting"](written) == 0.5


def test_a_missed_and_an_invented_finding_halve_the_f1() -> None:
    half = pairs(("Nodule in the left upper zone. Cardiomegaly.", "Cardiomegaly. Hiatal hernia."))

    assert text_metrics.strict_f1(half) == pytest.approx(0.5)
    assert text_metrics.hallucinated(half) == pytest.approx(0.5)
    assert text_metrics.exact_set(half) == 0


def test_macro_f1_weights_rare_findings_like_common_ones() -> None:
    uneven = pairs(*[(EFFUSION_LEFT, EFFUSION_LEFT)] * 9, ("Drusen.", NORMAL))

    assert text_metrics.macro_f1(uneven) == pytest.approx(0.5)
    assert text_metrics.strict_f1(uneven) > 0.9


def test_normality_is_agreement_on_any_finding() -> None:
    assert (
        text_metrics.normality(pairs((NORMAL, NORMAL), (EFFUSION_LEFT, EFFUSION_RIGHT), (NORMAL, "Drusen."))) == 2 / 3
    )


def test_word_figures_of_known_texts() -> None:
    texts = pairs(("the cat sat on the mat", "the cat lay on the mat"))

    assert text_metrics.rouge_l(texts) == pytest.approx(5 / 6)
    assert text_metrics.edit_distance(texts) == pytest.approx(1 / 6)
    assert text_metrics.bleu4(texts) == 0
    assert text_metrics.bleu4(pairs(("a b c d e", "a b c d e"))) == pytest.approx(1)


def test_bleu_penalises_brevity() -> None:
    assert text_metrics.bleu4(pairs(("a b c d e f g h", "a b c d"))) == pytest.approx(math.exp(-1))


def test_support_counts_findings_that_a_quoted_report_affirms() -> None:
    written = pairs((NORMAL, "Drusen. Cardiomegaly."))

    assert text_metrics.support_at([["No drusen.", "Drusen."]], written, 1) == 0
    assert text_metrics.support_at([["No drusen.", "Drusen."]], written, 2) == 0.5


def test_the_interval_contains_the_figure_and_shrinks_without_variation() -> None:
    mixed = pairs(*[(EFFUSION_LEFT, EFFUSION_LEFT), (EFFUSION_LEFT, NORMAL)] * 20)

    interval = text_metrics.bootstrap(text_metrics.strict_f1, mixed, resamples=100)

    assert interval.low < interval.value < interval.high
    uniform = text_metrics.bootstrap(
        text_metrics.strict_f1, pairs(*[(EFFUSION_LEFT, EFFUSION_LEFT)] * 20), resamples=100
    )
    assert uniform.low == uniform.high == 1
