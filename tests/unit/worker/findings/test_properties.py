"""Changes, properties and parts of a finding that are denied or cannot be assessed, where the finding is not."""

from __future__ import annotations

import pytest

from worker.findings.labeller import labels


def _certainties(text: str) -> list[str]:
    return [label.certainty for label in labels(text)]


@pytest.mark.parametrize(
    "text",
    [
        "The left pneumothorax has expanded.",
        "Pneumothorax has expanded since yesterday.",
        "Pneumothorax has expanded to 3 cm.",
        "The left pneumothorax has now expanded and there is mediastinal shift.",
        "The right tension pneumothorax has since expanded.",
        "Left lower lobe atelectasis has expanded.",
        "The collapse has expanded to involve the whole lung.",
        "The right-sided pneumothorax has expanded again.",
        "Right lung collapse has expanded.",
        "Lobar collapse has expanded.",
        "The atelectasis on the left has expanded.",
        "The hydropneumothorax has expanded.",
        "The collapsed lung has re-expanded slightly.",
        "Small pneumothorax but the lung has re-expanded.",
        "Left basal atelectasis and the right lung is fully aerated.",
    ],
)
def test_pneumothorax_or_collapse_that_has_expanded_is_present(text: str) -> None:
    assert _certainties(text) == ["present"]


@pytest.mark.parametrize(
    "text",
    [
        "The collapsed left lung has expanded.",
        "The left lung, previously collapsed, has expanded.",
        "The right pneumothorax has fully re-expanded.",
        "The atelectasis is now aerated.",
        "The collapsed lobe has completely re-expanded.",
    ],
)
def test_collapsed_lung_that_has_expanded_is_not_collapsed(text: str) -> None:
    assert _certainties(text) == ["absent"]


@pytest.mark.parametrize(
    "text",
    [
        "One of the drains was removed and the pneumothorax has resolved.",
        "Three of the chest tubes were removed and pneumothorax has resolved.",
        "Two of the drains were removed and the effusion is no longer seen.",
        "One of the leads is displaced and a pneumothorax is not seen.",
        "Several of the ribs are obscured and a fracture is not seen.",
        "Some of the lines remain but the effusion has resolved.",
        "Some of the tubes remain while the pneumothorax has resolved.",
        "Most of the sutures have gone and the haematoma has been evacuated.",
        "Two of the clips are missing and a nodule is not identified.",
        "Half of the leads were exchanged after the effusion had resolved.",
        "Pneumothorax is not seen, of the three drains two have been removed.",
    ],
)
def test_some_of_other_things_is_no_part_of_a_denied_finding(text: str) -> None:
    assert _certainties(text) == ["absent"]


@pytest.mark.parametrize(
    "text",
    [
        "One of the left-sided nodules has resolved.",
        "Most of the residual left lung nodules have resolved.",
        "Nodules: two are no longer seen.",
        "One of the patient's nodules has resolved.",
        "Nodules in the left lung, most of which have resolved.",
        "Some of the old small nodules have cleared.",
    ],
)
def test_some_of_the_findings_leave_the_others(text: str) -> None:
    assert _certainties(text) == ["present"]


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("No definite progression or new infarct.", ["absent"]),
        ("No convincing change or fracture.", ["absent"]),
        ("No definite change or effusion.", ["absent"]),
        ("There is no definite increase in haemorrhage or new infarct.", ["present", "absent"]),
        ("No increase in the effusion or evidence of pneumothorax.", ["present", "absent"]),
        ("No significant change in the left effusion or definite pneumothorax.", ["present", "absent"]),
        ("No interval increase in the left effusion or developing consolidation.", ["present", "uncertain"]),
        ("No significant interval change or new consolidation.", ["absent"]),
        ("No definite change, fracture or effusion.", ["absent", "absent"]),
        ("No increase in the effusion, or new consolidation.", ["present", "absent"]),
        ("No change since yesterday or new infarct.", ["absent"]),
        ("No convincing improvement in the consolidation or any new effusion.", ["present", "absent"]),
        ("No change in the effusion on the left or new consolidation.", ["present", "absent"]),
        ("No change in the effusion or new or enlarging nodule.", ["present", "absent"]),
        ("No change in the effusion or acute infarct.", ["present", "uncertain"]),
        ("No substantial change in the effusion or new pneumothorax.", ["present", "absent"]),
        ("No major change or effusion.", ["absent"]),
    ],
)
def test_finding_added_to_a_denied_change_is_not_affirmed(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("No change in the left effusion or the right nodule.", ["present", "present"]),
        ("No change in nodule or mass.", ["present", "present"]),
        ("No change or increase in the effusion.", ["present"]),
        ("No interval improvement or significant worsening of the consolidation.", ["present"]),
        ("No definite change in the effusion.", ["present"]),
        ("No definite change, left effusion.", ["present"]),
        ("No substantial change in the left effusion.", ["present"]),
        ("No major interval change in the effusion or the nodule.", ["present", "present"]),
        ("No further increase in the pneumothorax.", ["present"]),
        ("No measurable decrease in the effusion.", ["present"]),
        ("No clear improvement of the consolidation.", ["present"]),
        ("No change in the old or new infarcts.", ["present"]),
        ("No change in the effusion or new increase in the nodule.", ["present", "present"]),
        ("No change in the effusion or evidence of progression of the mass.", ["present", "present"]),
    ],
)
def test_finding_without_change_is_present(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    "text",
    [
        "No old and new fractures.",
        "No persistent and residual haemorrhage.",
        "No persistent and new nodules.",
        "No new and stable infarcts.",
        "No residual and increasing haemorrhage.",
        "No unchanged and new nodules are seen.",
        "No small and moderate effusions.",
        "No effusion or old and new fractures.",
    ],
)
def test_denial_reaches_over_two_words_for_one_finding(text: str) -> None:
    assert set(_certainties(text)) == {"absent"}


@pytest.mark.parametrize(
    "text",
    [
        "The age of the rib fractures cannot be determined without priors.",
        "The size of the effusion cannot be assessed.",
        "The extent of the pneumothorax cannot be assessed.",
        "Growth of the nodule cannot be determined.",
        "Because of the left effusion the heart size cannot be assessed.",
        "Large left effusion, the left base cannot be assessed.",
        "The nature of the mass cannot be determined.",
        "Progression of the effusion on the left cannot be judged.",
        "The age and size of the infarct cannot be judged.",
        "The change in the left effusion cannot be assessed.",
        "There is a left effusion, its extent cannot be assessed.",
        "Left nodule, so the hilum cannot be evaluated.",
        "The effusion cannot be assessed for loculation.",
        "Left effusion and the heart size cannot be assessed.",
        "Effusion size cannot be assessed.",
        "Left pneumothorax, extent not assessable.",
    ],
)
def test_finding_is_present_if_only_a_property_or_another_subject_cannot_be_assessed(text: str) -> None:
    assert _certainties(text) == ["present"]


@pytest.mark.parametrize(
    ("text", "certainties"),
    [
        ("Free air under the diaphragm cannot be assessed.", ["uncertain"]),
        ("Whether an effusion is present cannot be determined.", ["uncertain"]),
        ("The presence and size of the effusion cannot be assessed.", ["uncertain"]),
        ("Consolidation behind the heart cannot be evaluated.", ["uncertain"]),
        ("Small pneumothorax is not assessable on this view.", ["uncertain"]),
        ("Effusion, pneumothorax or free air cannot be assessed.", ["uncertain"] * 3),
        ("Left effusion, pneumothorax cannot be assessed.", ["present", "uncertain"]),
        ("With the extensive consolidation an effusion cannot be assessed.", ["present", "uncertain"]),
        ("Due to left effusion, pneumonia cannot be assessed.", ["present", "uncertain"]),
        ("The presence of free air or a fracture cannot be assessed.", ["uncertain", "uncertain"]),
    ],
)
def test_finding_that_cannot_be_assessed_is_uncertain(text: str, certainties: list[str]) -> None:
    assert _certainties(text) == certainties


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Spinal rods without evidence of failure.", ["spinal rods"]),
        ("Spinal rods, no evidence of failure.", ["spinal rods"]),
        ("Pacemaker leads in place without evidence of failure.", ["pacemaker"]),
        ("Right hip prosthesis without signs of failure.", []),
        ("VP shunt, no evidence of failure.", []),
        ("Aortic graft without evidence of failure.", []),
        ("No evidence of failure or loosening of the screws.", []),
        ("Spinal hardware without evidence of failure or fracture.", ["spinal rods", "fracture"]),
        ("Heart is normal without evidence of failure.", ["pulmonary oedema"]),
        ("Spinal rods, no failure or effusion.", ["spinal rods", "pulmonary oedema", "pleural effusion"]),
        ("Spinal rods in place. No failure.", ["spinal rods", "pulmonary oedema"]),
        ("Hardware without evidence of heart failure.", ["pulmonary oedema"]),
        ("Rib cage intact without evidence of failure.", ["pulmonary oedema"]),
        ("Left-to-right shunt without signs of failure.", ["pulmonary oedema"]),
    ],
)
def test_failure_of_hardware_is_none_of_the_heart(text: str, named: list[str]) -> None:
    assert [label.finding for label in labels(text)] == named
