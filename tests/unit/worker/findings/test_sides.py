"""Sides and zones of findings that one sentence tells of in several places."""

from __future__ import annotations

import pytest

from worker.findings.labeller import labels

Told = set[tuple[str, str]]


def _sides(text: str) -> Told:
    return {(label.side, label.certainty) for label in labels(text)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Persistent small left and resolved right pleural effusions.", {("left", "present"), ("right", "absent")}),
        ("Resolved left and persistent right effusions.", {("right", "present")}),
        ("Small left and moderate right effusions.", {("left", "present"), ("right", "present")}),
        ("Left and persistent right effusions.", {("left", "present"), ("right", "present")}),
        ("Left pneumothorax is smaller; the right one has gone.", {("left", "present"), ("right", "absent")}),
        ("Atelectasis at the right base has improved, those at the left base are unchanged.", {
            ("right", "present"), ("left", "present"),
        }),
        ("Drusen in the left eye are unchanged, in the right eye they have increased.", {
            ("left", "present"), ("right", "present"),
        }),
        ("Effusion on the right side decreasing, on the left side increasing.", {
            ("right", "present"), ("left", "present"),
        }),
        ("Pneumothorax resolved on the left and persistent on the right.", {("left", "absent"), ("right", "present")}),
        ("Left haematoma has resolved; a small one remains on the right.", {("left", "absent"), ("right", "present")}),
        ("Drusen OD > OS.", {("left", "present"), ("right", "present")}),
        ("Left effusion smaller than that on the right.", {("left", "present"), ("right", "present")}),
    ],
)  # fmt: skip
def test_each_side_has_its_own_certainty(text: str, told: Told) -> None:
    assert _sides(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("No large effusion, though a small one on the left is difficult to exclude.", {
            ("", "absent"), ("left", "uncertain"),
        }),
        ("No effusion, but there is a small one on the left.", {("", "absent"), ("left", "present")}),
        ("No effusion, although one on the left was described before.", {("left", "absent")}),
        ("No effusion on the right, but a small one on the left.", {("right", "absent"), ("left", "present")}),
        ("Effusion left, on the right increasing consolidation.", {("left", "present"), ("right", "present")}),
        ("Left basal shadowing, either consolidation or effusion.", {("left", "uncertain"), ("", "uncertain")}),
        ("No effusion on either side.", {("left", "absent"), ("right", "absent")}),
        ("No effusion in the left hemithorax, in the right hemithorax a small effusion.", {
            ("left", "absent"), ("right", "present"),
        }),
        ("Polyp on the right was left in place.", {("right", "present")}),
        ("One 5 mm polyp left in place.", {("", "present")}),
        ("Pacemaker on the left in place.", {("left", "present")}),
        ("Consolidation of the right lung, sparing the left apex.", {("right", "present")}),
        ("Subdural haematoma, left, 16 mm, midline shift to the right.", {("left", "present"), ("", "present")}),
    ],
)  # fmt: skip
def test_words_about_another_place_give_the_finding_no_side(text: str, told: Told) -> None:
    assert _sides(text) == told


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Nodules in both lungs, the largest in the left lower lobe.", [
            ("left", ""), ("right", ""), ("left", "lower"),
        ]),
        ("Masses in both lungs, the dominant one in the right upper lobe.", [
            ("left", ""), ("right", ""), ("right", "upper"),
        ]),
        ("Multiple nodules, the largest in the right lower lobe.", [("right", "lower")]),
        ("Nodules in both lungs, the largest 9 mm.", [("left", ""), ("right", "")]),
        ("Two nodules, one in the left upper lobe and one in the right lower lobe.", [
            ("left", "upper"), ("right", "lower"),
        ]),
        ("Two masses, one on the left and another in the right lower lobe.", [("left", ""), ("right", "lower")]),
        ("Consolidation throughout the left lung, with relative sparing of the apex.", [("left", "")]),
        ("Consolidation in the apical segment of the right lower lobe.", [("right", "lower")]),
        ("Nodule in the left lung; mass adjacent to the heart.", [("left", ""), ("", "")]),
        ("Opacity in the right lower zone, which could represent infection or consolidation.", [
            ("right", "lower"), ("right", "lower"),
        ]),
    ],
)  # fmt: skip
def test_one_of_several_findings_has_its_own_place(text: str, places: list[tuple[str, str]]) -> None:
    assert [(label.side, label.zone) for label in labels(text)] == places


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Right effusion with adjacent compressive atelectasis.", ["right", "right"]),
        ("Ulcerated nodule with rolled edge on the left cheek.", ["left", "left"]),
        ("Erythema and superficial ulceration over the left shin.", ["left", "left"]),
        ("Erythema and ulceration of the left leg.", ["left", "left"]),
        ("The right base shows atelectasis and a small effusion.", ["right", "right"]),
        ("Left lower lobe collapse/consolidation.", ["left", "left"]),
        ("Consol/eff at R base.", ["right", "right"]),
        ("Opacity in the right lung, ?consolidation.", ["right", "right"]),
        ("Opacity in the left lung, DD atelectasis.", ["left", "left"]),
        ("Hyperdensity in the right thalamus, indicating an acute haemorrhage.", ["right"]),
        ("The left lung shows consolidation, and there is a right effusion.", ["left", "right"]),
        ("Effusion and fracture of the left clavicle.", ["", "left"]),
    ],
)
def test_findings_of_one_place_share_its_side(text: str, sides: list[str]) -> None:
    assert [label.side for label in labels(text)] == sides


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("No signs of failure.", ["pulmonary oedema"]),
        ("No congestion.", ["pulmonary oedema"]),
        ("Cardiac decompensation.", ["pulmonary oedema"]),
        ("Respiratory failure.", []),
        ("Spinal rods without hardware failure.", ["spinal rods"]),
        ("Beginning basal dystelectases.", ["atelectasis"]),
        ("Haemorrhagic transformation of the left infarct.", ["haemorrhage", "infarct"]),
        ("Round lesion in the right upper field.", ["nodule"]),
        ("Pneumonic infiltrates.", ["consolidation"]),
        ("Parapneumonic effusion.", ["pleural effusion"]),
        ("Emphysema of the soft tissues.", ["subcutaneous emphysema"]),
        ("L PTX, SC emphysema.", ["pneumothorax", "subcutaneous emphysema"]),
        ("No free intraabdominal air.", ["free air"]),
        ("Discs not cupped.", ["disc cupping"]),
        ("Pulm edema.", ["pulmonary oedema"]),
        ("No ptx/eff.", ["pneumothorax", "pleural effusion"]),
        ("Pangastritis.", ["inflammation"]),
        ("Oozing hemorrhage from the anastomosis.", ["bleeding"]),
        ("Hili not enlarged.", ["hilar enlargement"]),
        ("Haemorrhages in all quadrants of the left retina.", ["retinal haemorrhages"]),
    ],
)
def test_further_words_name_a_finding(text: str, named: list[str]) -> None:
    assert [label.finding for label in labels(text)] == named


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("RE: flame haemorrhages; LE: drusen.", ["right", "left"]),
        ("RE: drusen, exudates.", ["right", "right"]),
        ("LE: cupping.", ["left"]),
        ("RE: CT of the chest, nodule.", [""]),
        ("RE drusen.", [""]),
    ],
)
def test_re_and_le_are_eyes_beside_a_finding_of_the_eye(text: str, sides: list[str]) -> None:
    assert [label.side for label in labels(text)] == sides
