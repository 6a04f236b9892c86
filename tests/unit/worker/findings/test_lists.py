"""Lists of findings that are denied, doubted or affirmed at their end, of any length and layout."""

from __future__ import annotations

import pytest

from worker.findings.labeller import Label, labels, present
from worker.findings.sections import MAX_SENTENCE

#: Words of a list, some of them outside the lexicon, and the findings that the labeller reads in them.
ITEMS = (
    "pleural effusion", "pneumothorax", "herniation", "consolidation", "pulmonary oedema", "empyema", "atelectasis",
    "hilar enlargement", "calcified plaques", "subcutaneous emphysema", "free air under the diaphragm", "rib fracture",
    "pericardial effusion", "a foreign body", "hiatal hernia", "miliary opacities", "cavitating lesions",
    "central venous line", "tracheal tube", "vertebral collapse of any age", "spinal rods", "bronchial wall thickening",
    "pneumomediastinum", "mediastinal widening", "nodules", "pleural thickening", "lymphadenopathy", "lobar collapse",
    "tracheal deviation", "masses", "elevation of the diaphragm", "pacemaker", "cardiomegaly",
)  # fmt: skip


def certainties(text: str) -> dict[str, set[str]]:
    read: dict[str, set[str]] = {}
    for label in labels(text):
        read.setdefault(label.finding, set()).add(label.certainty)
    return read


def written(items: tuple[str, ...], ending: str, separator: str = ", ") -> str:
    return f"{separator.join(items[:-1])} and {items[-1]}{ending}".capitalize()


@pytest.mark.parametrize("length", [2, 3, 5, 9, len(ITEMS)])
@pytest.mark.parametrize("separator", [", ", ",\n", "\n", "/"])
@pytest.mark.parametrize(
    ("ending", "certainty"),
    [
        (" are absent.", "absent"),
        (" are not seen.", "absent"),
        (" were excluded.", "absent"),
        (" have all been excluded.", "absent"),
        (": none.", "absent"),
        (": negative.", "absent"),
        (": not identified on this study.", "absent"),
        (", none of which is present.", "absent"),
        (" (all absent).", "absent"),
        (" cannot be excluded.", "uncertain"),
        (": cannot be excluded.", "uncertain"),
        (" are present.", "present"),
        (": present.", "present"),
        (" have not resolved.", "present"),
    ],
)
def test_the_end_of_a_list_holds_for_every_item(length: int, separator: str, ending: str, certainty: str) -> None:
    text = written(ITEMS[:length], ending, separator)

    assert {one.certainty for one in labels(text)} == {certainty}, text
    assert len(text) > MAX_SENTENCE or length < len(ITEMS)


def test_list_longer_than_a_sentence_may_be_leaves_the_statement_before_it_affirmed() -> None:
    text = written(("Left effusion is seen", *ITEMS[1:]), " are absent.")

    assert present(text) == {Label("pleural effusion", "left")}
    assert len(text) > MAX_SENTENCE


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Effusion: none; nodule: 4 mm", {"pleural effusion": "absent", "nodule": "present"}),
        ("Effusion: none, nodule: 4 mm", {"pleural effusion": "absent", "nodule": "present"}),
        ("Effusion: none\nNodule: 4 mm", {"pleural effusion": "absent", "nodule": "present"}),
        ("effusion: none\nnodule: 4 mm", {"pleural effusion": "absent", "nodule": "present"}),
        ("effusion: no\nnodule: yes", {"pleural effusion": "absent", "nodule": "present"}),
        (
            "Effusion none, nodule 4 mm, mass none.",
            {"pleural effusion": "absent", "nodule": "present", "mass": "absent"},
        ),
        ("| Effusion | none |\n| Nodule | 4 mm |", {"pleural effusion": "absent", "nodule": "present"}),
        ("Effusion\tnone\nNodule\t4 mm", {"pleural effusion": "absent", "nodule": "present"}),
        ("Nodule: 4 mm, mass, effusion: none", {"nodule": "present", "mass": "absent", "pleural effusion": "absent"}),
        ("Effusion (none), nodule (4 mm)", {"pleural effusion": "absent", "nodule": "present"}),
        ("Effusion (-), nodule (+)", {"pleural effusion": "absent", "nodule": "present"}),
        ("Effusion:\nNone.\nNodule:\nSmall.", {"pleural effusion": "absent", "nodule": "present"}),
        ("No pneumothorax, effusion: present", {"pneumothorax": "absent", "pleural effusion": "present"}),
        (
            "Absent: mass, effusion; present: nodule",
            {"mass": "absent", "pleural effusion": "absent", "nodule": "present"},
        ),
        ("- Mass\n- Effusion\nNone of these is seen.", {"mass": "absent", "pleural effusion": "absent"}),
        ("Left effusion and nodules have resolved.", {"pleural effusion": "absent", "nodule": "absent"}),
        ("Effusion is absent, as are nodules.", {"pleural effusion": "absent", "nodule": "absent"}),
        ("Left effusion, free air under the diaphragm.", {"pleural effusion": "present", "free air": "present"}),
        ("Effusion, removal of the drain.", {"pleural effusion": "present"}),
    ],
)
def test_each_row_of_a_table_has_its_own_value(text: str, meant: dict[str, str]) -> None:
    assert certainties(text) == {finding: {certainty} for finding, certainty in meant.items()}


@pytest.mark.parametrize(
    "text",
    [
        "Small left effusion, pneumothorax and consolidation are absent.",
        "Left effusion and pneumothorax is not seen.",
        "Left effusion, pneumothorax, resolved.",
        "Cardiomegaly, pneumothorax absent.",
        "Left effusion, nodule, pneumothorax not seen.",
        "Effusion; pneumothorax; consolidation: none.",
        "Effusion, pneumothorax. None seen.",
        "Effusion -, pneumothorax +",
        "Effusion: , pneumothorax: none",
        "Effusion:\nConsolidation: small",
        "[ ] effusion [ ] pneumothorax",
        "Effusion: none acute.",
    ],
)
def test_item_that_its_list_leaves_open_is_uncertain(text: str) -> None:
    assert labels(text)[0].certainty == "uncertain"


@pytest.mark.parametrize(
    "text",
    [
        "There is a left effusion, pneumothorax and consolidation are not seen.",
        "Left effusion is stable, pneumothorax and consolidation are not seen.",
        "Small left effusion, and pneumothorax is absent.",
        "Left effusion; pneumothorax: none.",
        "Left effusion, drain taken out.",
        "Effusion present, pneumothorax, consolidation absent.",
        "Effusion, nodule and mass not previously seen.",
        "Effusion and nodule are not seen to communicate.",
        "Effusion: no evidence of loculation.",
        "Effusion: likely parapneumonic.",
        "Effusion - ? malignant.",
    ],
)
def test_finding_stated_before_a_denied_one_stays_affirmed(text: str) -> None:
    assert labels(text)[0].certainty == "present"
