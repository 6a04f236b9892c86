"""Words of denial that reach a finding, and the same words where they do not."""

from __future__ import annotations

import pytest

from worker.findings.labeller import labels


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Status post resection of left upper lobe with pleural effusion.", ["present"]),
        ("Status post resection of left lower lobe, pneumothorax.", ["present"]),
        ("Status post resection of left lower lobe, pneumothorax and effusion.", ["present", "present"]),
        ("Following evacuation of the haematoma, hydrocephalus has developed.", ["absent", "present"]),
        ("Following resection of the mass, the left effusion unchanged.", ["absent", "present"]),
        ("After removal of the left drain, pneumothorax.", ["present"]),
        ("Removal of the chest tube and new pneumothorax.", ["present"]),
        ("Interval resection of the mass with left effusion.", ["absent", "present"]),
        ("Resolution of the effusion, persistent pneumothorax.", ["absent", "present"]),
        ("Surgical resection of the right upper lobe mass is recommended.", ["present"]),
        ("Recommend removal of the ETT.", ["present"]),
        ("Polyp removal advised.", ["present"]),
        ("Incomplete resection of the tumour.", ["present"]),
        ("Recommend withdrawal of the ETT by 2 cm.", ["present"]),
        ("Interval withdrawal of the ETT, tip 4 cm above the carina.", ["present"]),
        ("Status post excision of the mass.", ["absent"]),
        ("S/p evacuation of left subdural haematoma.", ["absent"]),
        ("Following resection of the mass and the nodule.", ["absent", "absent"]),
        ("Removal of the central venous line, ETT and pacemaker.", ["absent"] * 3),
        ("Status post removal of the ETT, the pacemaker and the central venous line.", ["absent"] * 3),
        ("Interval resolution of effusion, consolidation and atelectasis.", ["absent"] * 3),
        ("Resolution of left effusion along with atelectasis.", ["absent", "absent"]),
    ],
)
def test_removal_reaches_what_was_removed_only(text: str, certainties: list[str]) -> None:
    assert [label.certainty for label in labels(text)] == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Cardiomegaly and vascular congestion, effusions are not seen.", ["uncertain", "uncertain", "absent"]),
        ("Consolidation and atelectasis, pneumothorax is not seen.", ["uncertain", "uncertain", "absent"]),
        ("Effusion and atelectasis, pneumothorax excluded.", ["uncertain", "uncertain", "absent"]),
        (
            "Left effusion and atelectasis, pneumothorax and consolidation are not seen.",
            ["uncertain", "uncertain", "absent", "absent"],
        ),
        ("Consolidation, effusion, and pneumothorax are absent.", ["absent"] * 3),
        ("Effusion, nodule and mass, and fracture are absent.", ["absent"] * 4),
        ("Consolidation and effusion, on both sides, are not seen.", ["absent"] * 3),
    ],
)
def test_denial_after_a_comma_reaches_no_list_that_and_has_ended(text: str, certainties: list[str]) -> None:
    assert [label.certainty for label in labels(text)] == certainties


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Multiple nodules. None of them is larger than 5 mm.", "present"),
        ("Rib fractures. None of these is displaced.", "present"),
        ("Nodules. None of these has grown.", "present"),
        ("Nodules. None of these was seen before.", "present"),
        ("Nodules. None of these was noted to have grown.", "present"),
        ("Effusion and mass, neither of which has changed.", "present"),
        ("Exudates, none of them in the macula.", "present"),
        ("Effusion. Nodule. None of these is seen.", "absent"),
        ("Effusion. Nodule. None of these could be identified.", "absent"),
        ("Effusion. Mass. Neither of these findings is present.", "absent"),
        ("Effusion, nodule and mass, none of which can be seen.", "absent"),
        ("Effusion, mass. None of the above.", "absent"),
    ],
)
def test_none_of_these_denies_findings_but_no_property_of_them(text: str, certainty: str) -> None:
    assert {label.certainty for label in labels(text)} == {certainty}


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Pneumothorax is no longer clearly seen.", "absent"),
        ("Pneumothorax is no longer well seen.", "absent"),
        ("Pneumothorax no longer detectable.", "absent"),
        ("The effusion is no longer demonstrable.", "absent"),
        ("The left effusion is no longer appreciable.", "absent"),
        ("The pneumothorax no longer exists.", "absent"),
        ("Effusion, nodule and mass are no longer detectable.", "absent"),
        ("Effusion is no longer loculated.", "present"),
        ("The mass is no longer clearly separable from the hilum.", "present"),
        ("Haemorrhage is not seen in 1.5 mm slices.", "absent"),
        ("Infarct is not seen on 1.5 T.", "absent"),
        ("Effusion is not seen in 2/3 views.", "absent"),
        ("New effusion, not seen on 3/4/24.", "present"),
        ("Nodule that was not present in 2021.", "present"),
        # The date may be that of the images.
        ("Pneumothorax was not seen on 12.03.2024.", "uncertain"),
    ],
)
def test_denial_of_visibility_is_not_taken_for_one_of_a_property_or_a_date(text: str, certainty: str) -> None:
    assert {label.certainty for label in labels(text)} == {certainty}


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("No consolidation, effusion (seen previously) or pneumothorax.", ["absent"] * 3),
        ("No consolidation, effusion (seen on the film of 3 March) or pneumothorax.", ["absent"] * 3),
        ("No effusion, pneumothorax (noted on CT) or nodule.", ["absent"] * 3),
        ("No effusion, nodule (present on the left).", ["absent", "present"]),
        ("No pneumothorax, effusion: seen posteriorly.", ["absent", "present"]),
        ("Effusion (seen), pneumothorax (not seen).", ["present", "absent"]),
    ],
)
def test_words_in_brackets_affirm_if_they_are_a_value(text: str, certainties: list[str]) -> None:
    assert [label.certainty for label in labels(text)] == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Pneumothorax: nil, effusion: small left.", ["absent", "present"]),
        ("Pneumothorax nil, cardiomegaly.", ["absent", "present"]),
        ("Effusion nil, nodule nil, mass 3 cm.", ["absent", "absent", "present"]),
        ("Consolidation nil, nil effusion.", ["absent", "absent"]),
        ("Nil effusion, consolidation or nodule.", ["absent"] * 3),
        ("Heart normal, nil effusion.", ["absent"]),
        ("There is nil evidence of pneumothorax.", ["absent"]),
    ],
)
def test_nil_denies_what_it_is_the_value_of_or_what_follows(text: str, certainties: list[str]) -> None:
    assert [label.certainty for label in labels(text)] == certainties


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Once again seen is a small left effusion.", "present"),
        ("A once small nodule is now a mass.", "present"),
        ("Once a pneumothorax develops, drain.", "uncertain"),
        ("Remove the drain once effusion resolves.", "uncertain"),
        ("Large effusion to be considered for drainage.", "present"),
        ("Drainage of the effusion should be considered.", "present"),
        ("Evacuation of the subdural haematoma should be considered.", "present"),
        ("Biopsy of left nodule should be considered.", "present"),
        ("Pneumonia should be considered.", "uncertain"),
    ],
)
def test_condition_or_procedure_is_told_from_a_time_and_a_doubt(text: str, certainty: str) -> None:
    assert {label.certainty for label in labels(text)} == {certainty}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Leukocytosis with left shift.", []),
        ("Leukocytosis with shift to the left.", []),
        ("Large effusion with rightward shift.", ["pleural effusion"]),
        ("Subdural haematoma with shift to the left.", ["subdural haematoma", "midline shift"]),
        ("6 mm of left to right shift.", ["midline shift"]),
    ],
)
def test_shift_is_one_of_the_midline_with_a_length_or_beside_its_cause(text: str, named: list[str]) -> None:
    assert [label.finding for label in labels(text)] == named
