"""Cases: random, with findings that are all visible in the image."""

from __future__ import annotations

import numpy as np

from worker.phantoms.cases import CATALOGUE, Case, draw_case


def drawn(image: str, count: int = 1500) -> list[Case]:
    rng = np.random.default_rng(3)
    return [draw_case(rng, image) for _ in range(count)]


def test_every_finding_of_the_catalogue_is_drawn_on_both_sides() -> None:
    for image, kinds in CATALOGUE.items():
        drawn_findings = {(finding.name, finding.side) for case in drawn(image) for finding in case.findings}
        for kind in kinds:
            assert (kind.name, "left" if kind.sided else "") in drawn_findings


def test_no_nodule_is_drawn_under_a_large_effusion_of_the_same_side() -> None:
    together = 0
    for case in drawn("chest", 6000):
        by_name = {finding.name: finding for finding in case.findings}
        effusion, nodule = by_name.get("pleural effusion"), by_name.get("nodule")
        if effusion and nodule and effusion.size == "large":
            together += 1
            assert effusion.side != nodule.side or nodule.zone == "upper"
    assert together > 3


def test_two_lesions_of_the_brain_are_never_in_one_hemisphere() -> None:
    for case in drawn("ct"):
        sides = [finding.side for finding in case.findings if finding.name in {"haemorrhage", "infarct", "mass"}]
        assert len(sides) == len(set(sides))
