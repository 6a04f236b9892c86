"""Certificates: which margins are certified, which sets are refused, and what a certificate changes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from db.reports.certificates import Bindings, Certificate, GroupFigures, Standing
from db.reports.grounds import CitedSentence, GroundedFinding, GroundedSentence, Grounds, InImage
from db.states import Calibration, Verdict
from worker.findings.labeller import Label
from worker.grounding.calibration import (
    JudgedFinding,
    binomial_tail,
    certify,
    group_of,
    judged_findings,
    margins,
    needed,
    of_report,
    upper_bound,
)
from worker.grounding.grounds import PartOfReport, grounds_by_part
from worker.grounding.picture import Picture

BOUNDED = GroupFigures(60, 60, 0, 60, 0, 0.05, 0.0)
LABELS = ("nodule left", "pneumothorax left")


def judged(count: int, *, wrong: int = 0, margin: float | None = 1.0, first: int = 0) -> list[JudgedFinding]:
    return [JudgedFinding(f"{first + n}", "common", margin, n >= wrong) for n in range(count)]


def certificate(**groups: GroupFigures) -> Certificate:
    return Certificate(Bindings("d", "1", "s", "3"), 0.05, 0.1, {"kind": "phantoms"}, groups, ["nodule"])


def stated(name: str, verdict: Verdict = Verdict.SUPPORTED, certainty: str = "present") -> GroundedFinding:
    return GroundedFinding(name, "", "", "", certainty, 0, 1, verdict, InImage(2.0, 1.0, 1))


def test_tails_and_bounds_are_those_of_the_binomial_distribution() -> None:
    assert binomial_tail(0, 58, 0.05) > 0.05 > binomial_tail(0, 59, 0.05)
    exact = sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(5))
    assert binomial_tail(4, 20, 0.3) == pytest.approx(exact)
    assert binomial_tail(5000, 100_000, 0.06) < 1e-6
    # Clopper and Pearson: 0 of 59 and 5 of 100, one-sided.
    assert upper_bound(0, 59, 0.05) == pytest.approx(0.0495, abs=1e-4)
    assert upper_bound(5, 100, 0.05) == pytest.approx(0.1023, abs=1e-4)
    assert upper_bound(0, 0, 0.05) == upper_bound(3, 3, 0.05) == 1.0


def test_59_studies_without_an_error_are_certified_and_58_are_one_too_few() -> None:
    enough, few = (certify(judged(count), alpha=0.05, delta=0.1)["common"] for count in (59, 58))

    assert (enough.margin, enough.missing) == (0.0, 0)
    assert (few.margin, few.missing) == (None, 1)
    assert needed(1, 0.05, 0.05) == 93


def test_set_of_20_studies_certifies_no_group_and_says_how_many_are_missing() -> None:
    figures = certify(judged(20), alpha=0.05, delta=0.1)

    assert {name: (group.margin, group.missing) for name, group in figures.items()} == {
        "common": (None, 39),
        "rare": (None, 59),
        "critical": (None, 59),
    }


def test_findings_of_one_study_count_as_one() -> None:
    crowded = [replace(one, study="the same") for one in judged(200)]

    assert certify(crowded, alpha=0.05, delta=0.1)["common"].missing == 58


def test_wrong_findings_close_to_the_threshold_raise_the_margin() -> None:
    close = judged(30, wrong=30, margin=0.3, first=1000)

    found = certify([*judged(200), *close], alpha=0.05, delta=0.1)["common"]

    assert (found.margin, found.shown, found.wrong) == (0.5, 200, 0)
    assert certify([*judged(200), *judged(30, wrong=30, first=1000)], alpha=0.05, delta=0.1)["common"].margin is None


def test_error_above_alpha_is_certified_with_probability_delta_at_most() -> None:
    rng = np.random.default_rng(3)

    def is_certified() -> bool:
        drawn = [JudgedFinding(str(n), "common", m, bool(rng.random() > 0.055)) for n, m in enumerate(rng.random(300))]
        return certify(drawn, alpha=0.05, delta=0.1)["common"].margin is not None

    assert sum(is_certified() for _ in range(200)) <= 20


def test_flagged_findings_are_never_shown_and_a_finding_told_twice_counts_once() -> None:
    findings = [
        stated("nodule"),
        stated("nodule"),
        stated("mass", Verdict.CONTRADICTED),
        stated("rib fracture", certainty="absent"),
        stated("unclassified abnormality"),
    ]

    found = judged_findings("a", findings, lambda finding: finding.name == "nodule", ["nodule"])

    assert found == [JudgedFinding("a", "common", 1.0, right=True), JudgedFinding("a", "rare", None, right=False)]


def test_critical_findings_are_a_group_of_their_own_and_unknown_ones_are_rare() -> None:
    common = ["nodule", "pneumothorax"]

    assert [group_of(name, common) for name in ("nodule", "pneumothorax", "spinal rods")] == [
        "common", "critical", "rare",
    ]  # fmt: skip


def test_report_is_certified_only_if_all_findings_that_it_shows_are() -> None:
    standing = Standing(Calibration.CERTIFIED, certificate=certificate(common=BOUNDED))

    def status(*findings: GroundedFinding) -> Standing:
        return of_report(standing, Grounds([GroundedSentence("findings", 0, 1, [one]) for one in findings]))

    assert status(stated("nodule"), stated("pneumothorax", certainty="absent")) == standing
    assert status(stated("nodule"), stated("spinal rods", Verdict.UNSUPPORTED)) == standing
    refused = status(stated("nodule"), stated("spinal rods"))
    assert (refused.status, refused.certificate) == (Calibration.UNCALIBRATED, None)
    assert "does not cover rare findings" in refused.reason
    assert "does not cover unclassified findings" in status(stated("nodule"), stated("device")).reason
    assert status(stated("nodule"), stated("device", Verdict.UNSUPPORTED)) == standing


def test_finding_shown_because_a_case_affirms_it_is_counted_and_needs_a_certificate() -> None:
    cited = [CitedSentence(1, "affirms", "Spinal rods.")]
    unmeasured = replace(stated("spinal rods", Verdict.NOT_MEASURABLE), in_image=None)
    shown = replace(unmeasured, cited=cited)
    standing = Standing(Calibration.CERTIFIED, certificate=certificate(common=BOUNDED))

    def status(finding: GroundedFinding) -> Calibration:
        return of_report(standing, Grounds([GroundedSentence("findings", 0, 1, [finding])])).status

    [counted], [flagged] = (judged_findings("a", [one], lambda _: False, []) for one in (shown, unmeasured))
    assert [[one.shown(margin) for margin in (0.0, 1.0)] for one in (counted, flagged)] == [[True] * 2, [False] * 2]
    assert (status(shown), status(unmeasured)) == (Calibration.UNCALIBRATED, Calibration.CERTIFIED)


def test_margin_flags_a_finding_and_hides_none() -> None:
    raised = certificate(common=replace(BOUNDED, margin=1.0), critical=replace(BOUNDED, margin=1.0))
    shares = np.full((1, 4, 2), 0.375, np.float32)
    picture = Picture(LABELS, (1.0, 1.0), (1.0, 1.0), shares, [1], margins(raised, LABELS))

    [found] = grounds_by_part(
        [PartOfReport("CHEST", "There is a left nodule.", "", (), picture)], "There is a left nodule.", ""
    )

    (finding,) = found.sentences[0].findings
    assert finding.in_image is not None
    assert (finding.verdict, finding.in_image.score, finding.in_image.threshold) == (Verdict.UNSUPPORTED, 1.5, 2.0)
    # A critical finding stays on the list of what to look for.
    assert [omitted.name for omitted in found.omitted] == ["pneumothorax"]
    assert not Picture(("nodule left",), (1.0,), (1.0,), shares[..., :1], [1], [1.0]).omitted([])


def test_margin_makes_no_denial_safer() -> None:
    picture = Picture(("nodule left",), (1.0,), (1.0,), np.full((1, 4, 1), 0.375, np.float32), [1], [1.0])

    [found] = grounds_by_part([PartOfReport("CHEST", "No left nodule.", "", (), picture)], "No left nodule.", "")

    (denial,) = found.sentences[0].findings
    assert (denial.certainty, denial.verdict) == ("absent", Verdict.UNSUPPORTED)
    assert margins(None, LABELS) == [0.0, 0.0]
    assert picture.score("nodule", "left") is not None
    assert not picture.omitted([Label("nodule", "left", certainty="absent")])
