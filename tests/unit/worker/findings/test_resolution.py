"""What became of a finding: gone, gone in part, left behind, moved, explained or still to be excluded."""

from __future__ import annotations

import pytest

from worker.findings.labeller import labels


def _certainties(text: str) -> list[str]:
    return [label.certainty for label in labels(text)]


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Right upper lobe consolidation has nearly completely resolved.", "present"),
        ("The effusion has almost entirely cleared.", "present"),
        ("The consolidation has cleared almost entirely.", "present"),
        ("Haematoma partly resorbed.", "present"),
        ("The haematoma has not been resorbed.", "present"),
        ("The effusion has only partially regressed.", "present"),
        ("Consolidation has regressed.", "present"),
        ("Effusion has resolved in part.", "present"),
        ("The pneumothorax has partially re-expanded.", "present"),
        ("Fracture with resorbed margins.", "present"),
        ("Subarachnoid blood has been completely resorbed.", "absent"),
        ("Retinal haemorrhages have been absorbed since the last visit.", "absent"),
        ("Exudates in the right eye have completely regressed.", "absent"),
        ("Pneumothorax on the right side completely regredient.", "absent"),
        ("The erythema has faded completely.", "absent"),
        ("The consolidation has given way to a scar.", "absent"),
        ("The previously described nodule could not be reproduced.", "absent"),
    ],
)
def test_finding_is_absent_if_all_of_it_has_gone(text: str, certainty: str) -> None:
    assert _certainties(text) == [certainty]


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("The pneumothorax has re-expanded after drainage.", ["absent"]),
        ("The right upper lobe, collapsed on the earlier film, has re-expanded.", ["absent"]),
        ("The left lung, which was collapsed, is now fully aerated.", ["absent"]),
        ("Left basal nodule, the lungs are fully expanded.", ["present"]),
        ("Small left effusion, lungs fully aerated.", ["present"]),
        ("Small left pneumothorax persists, the lung is otherwise expanded.", ["present"]),
        ("Right lung fully expanded, left pneumothorax unchanged.", ["present"]),
        ("Pneumothorax, the lung has re-expanded incompletely.", ["present"]),
        ("The nodule has expanded.", ["present"]),
        ("The effusion has re-expanded the space.", ["present"]),
    ],
)
def test_expansion_ends_a_collapse_and_nothing_else(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Status post evacuation of right subdural hematoma, with residual thin collection.", ["present"]),
        ("The subdural haematoma was evacuated, with a small remaining component.", ["present"]),
        ("Subdural haematoma evacuated, no residual collection.", ["absent"]),
        ("Subdural haematoma evacuated without residual blood.", ["absent"]),
        ("Status post resection of the mass, no residual disease.", ["absent"]),
        ("ETT removed, residual fluid in the sinuses.", ["absent"]),
        ("Right PICC removed with residual subcutaneous air.", ["absent", "present"]),
        ("ETT has been withdrawn by 2 cm.", ["present"]),
        ("The PICC has been pulled back and ends in the SVC.", ["present"]),
        ("Swan-Ganz catheter withdrawn into the main pulmonary artery.", ["present"]),
        ("ETT withdrawn.", ["absent"]),
        ("ETT out. Left PICC ok.", ["absent", "present"]),
        ("Pneumothorax with outward bowing.", ["present"]),
    ],
)
def test_removed_finding_is_present_if_some_is_left_and_a_moved_device_too(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("One of the nodules has resolved.", "present"),
        ("Most of the nodules have resolved.", "present"),
        ("Nodules, two have resolved.", "present"),
        ("Nodules, some have cleared.", "present"),
        ("Of the three nodules, two have resolved and one has grown.", "present"),
        ("Several of these masses are no longer seen.", "present"),
        ("Multiple polyps, one of which has been removed.", "present"),
        ("Both masses have resolved.", "absent"),
        ("All of the nodules have resolved.", "absent"),
        ("One nodule has resolved.", "absent"),
        ("Two nodules are not seen any more.", "absent"),
    ],
)
def test_denial_of_some_findings_denies_not_all(text: str, certainty: str) -> None:
    assert set(_certainties(text)) == {certainty}


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Active bleeding from a diverticulum, stopped after clip placement.", ["absent", "present"]),
        ("Bleeding from the polyp has stopped.", ["absent", "present"]),
        ("Bleeding from an ulcer stopped with two clips.", ["absent", "present"]),
        ("Haemorrhage from the tumour has ceased.", ["absent", "present"]),
        ("Bleeding of the left ulcer, stopped.", ["absent", "present"]),
        ("Oozing from the polyp stopped.", ["absent", "present"]),
        ("Bleeding has stopped.", ["absent"]),
        ("Anticoagulation stopped, haemorrhage unchanged.", ["present"]),
        ("Bleeding of the mass ceased.", ["absent", "present"]),
        ("The bleeding stopped; diverticulum in the sigmoid.", ["absent", "present"]),
    ],
)
def test_end_of_a_bleeding_leaves_its_source(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Exclusion of pneumothorax after puncture on the left side.", "absent"),
        ("Exclusion of a haemorrhage.", "absent"),
        ("CT head: exclusion of an infarct.", "absent"),
        ("Exclusion of a pneumothorax is not possible in the supine position.", "uncertain"),
        ("Exclusion of a fracture requires a CT.", "uncertain"),
        ("Exclusion of a nodule recommended.", "uncertain"),
        ("CT for exclusion of a haemorrhage.", "uncertain"),
        ("For definite exclusion of a nodule, CT.", "uncertain"),
        ("No confidence in excluding a small nodule.", "uncertain"),
        ("Excluding a fracture.", "absent"),
        ("Not excluded: small left effusion.", "uncertain"),
    ],
)
def test_exclusion_denies_unless_it_is_still_to_be_done(text: str, certainty: str) -> None:
    assert _certainties(text) == [certainty]


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("The nodular opacity in the right lung base may represent a nipple shadow.", ["uncertain"]),
        ("Pneumothorax is likely a skin fold.", ["uncertain"]),
        ("Nodule at the left apex, possibly an artefact.", ["uncertain"]),
        ("A left apical pneumothorax could be a skin fold.", ["uncertain"]),
        ("Nodular density over the right base is a nipple shadow.", ["absent"]),
        ("The apparent nodule is due to overlapping vessels.", ["absent"]),
        ("Nodule in the left lung and a density that may be a nipple shadow.", ["present"]),
        ("Nodule in the left upper lobe; the density below is an artefact.", ["present"]),
        ("The pneumothorax is real and not an artefact.", ["present"]),
        ("A nodule is superimposed on the right fifth rib.", ["present"]),
        ("No nodule, likely nipple shadow.", ["absent"]),
        ("The nodule is partly obscured by overlapping ribs.", ["present"]),
    ],
)
def test_finding_that_is_an_artefact_is_absent_or_uncertain(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Small effusion on the left possible.", ["uncertain"]),
        ("Left effusion, pneumothorax possible.", ["present", "uncertain"]),
        ("Effusion on the left, drainage possible.", ["present"]),
        ("Nodule in the left lung, malignancy questionable.", ["present"]),
        ("A small anterior pneumothorax could be missed.", ["uncertain"]),
        ("Rib fractures may be occult.", ["uncertain"]),
        ("Free air cannot be assessed on this supine view.", ["uncertain"]),
        ("Cavitating mass, carcinoma until proven otherwise.", ["present", "uncertain"]),
        ("Question of left lower lobe pneumonia.", ["uncertain"]),
        ("Opacity, DD atelectasis.", ["present", "uncertain"]),
        ("Mass in the left upper lobe, most likely malignant.", ["present"]),
        ("Mass with necrosis, most likely a glioblastoma.", ["present", "present"]),
        ("Pneumonia most likely, given the fever.", ["uncertain"]),
        (
            "Gas under the diaphragm, most likely colonic interposition rather than free gas.",
            ["uncertain", "uncertain"],
        ),
        ("Effusion more likely on the left.", ["uncertain"]),
        ("The nodule in question is unchanged.", ["present"]),
    ],
)
def test_doubt_is_of_the_finding_before_it_and_not_of_its_nature(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Left effusion, pneumothorax cannot be excluded.", ["present", "uncertain"]),
        ("Left effusion, pneumothorax not excluded.", ["present", "uncertain"]),
        ("Moderate atelectasis, superimposed pneumonia not ruled out.", ["present", "uncertain"]),
        ("Irregular lesion on the left shoulder, melanoma cannot be ruled out.", ["present", "uncertain"]),
        ("Consolidation in keeping with multifocal pneumonia, atypical infection less likely.", ["present", "present"]),
        ("Effusion, nodule not excluded.", ["uncertain", "uncertain"]),
        ("Effusion, consolidation, nodule not excluded.", ["uncertain"] * 3),
        ("Pneumothorax and rib fractures cannot be excluded.", ["uncertain", "uncertain"]),
        ("Neither a mass nor a nodule is seen, and the effusion is no longer present.", ["absent"] * 3),
        ("I see neither an effusion nor a rib fracture, and the nodule is no longer present.", ["absent"] * 3),
        ("Resolved right effusion and persistent left effusion.", ["absent", "present"]),
        ("No pneumothorax and small left effusion.", ["absent", "present"]),
        ("No effusion and no new consolidation.", ["absent", "absent"]),
        ("No new or persistent effusion.", ["absent"]),
        ("No interval change in the left consolidation or the small effusion.", ["present", "present"]),
        ("No effusion or nodule.", ["absent", "absent"]),
        ("Mass completely resected with left effusion.", ["absent", "present"]),
        ("Hydrocephalus has increased since the shunt was removed.", ["present"]),
        ("The effusion has resolved since the drain was placed.", ["absent"]),
        ("Rib fractures are not seen, but cannot be excluded.", ["uncertain"]),
        ("Biopsy: no tumour, only inflammation.", ["absent", "present"]),
        ("More in keeping with an old infarct than with a tumour.", ["present", "uncertain"]),
    ],
)
def test_denial_or_doubt_reaches_no_statement_of_its_own(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Colon free of polyps apart from a tiny one in the rectum.", "present"),
        ("No polyps except for one in the sigmoid colon.", "present"),
        ("No exudates apart from those on the left.", "present"),
        ("No nodule other than that in the left upper lobe.", "present"),
        ("No masses save for the known one.", "present"),
        ("No fractures aside from an old one.", "present"),
        ("No nodules except a 3 mm one.", "present"),
        ("No nodules apart from scars.", "absent"),
        ("No polyp. Apart from that, one haemorrhoid.", "absent"),
        ("Apart from emphysema of long standing, no effusion.", "absent"),
    ],
)
def test_exception_from_a_denial_is_present(text: str, certainty: str) -> None:
    assert labels(text)[-1].certainty == certainty
