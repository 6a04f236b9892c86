"""Words of the grammar: phrases of findings, their structures, and sentences that negate them."""

from __future__ import annotations

from dataclasses import dataclass

from worker.phantoms.cases import UNCLASSIFIED


@dataclass(frozen=True, slots=True)
class Structure:
    """A part of the image: its possible findings, and the sentence of each wording for none of them."""

    findings: tuple[str, ...]
    clear: tuple[str, str, str]


#: Noun phrase of a finding in each wording, with placeholders.
PHRASES: dict[str, tuple[str, str, str]] = {
    "cardiomegaly": ("{size} cardiomegaly", "{size} enlargement of the heart", "{size} cardiac enlargement"),
    "pleural effusion": (
        "{size} {side} pleural effusion", "{size} pleural effusion on the {side}", "{size} {side} effusion",
    ),
    "pneumothorax": ("{size} {side} pneumothorax", "{size} pneumothorax on the {side}", "{size} {side} pneumothorax"),
    "consolidation": (
        "consolidation in the {side} {zone} zone", "airspace opacity in the {zone} {side} lung",
        "{side} {zone} zone consolidation",
    ),
    "nodule": ("nodule in the {side} {zone} zone", "nodule in the {zone} {side} lung", "{side} {zone} zone nodule"),
    "atelectasis": ("linear atelectasis on the {side}", "{side} basal atelectasis", "{side} linear atelectasis"),
    "hilar enlargement": ("enlargement of the {side} hilum", "{side} hilar enlargement", "enlarged {side} hilum"),
    "rib fracture": ("displaced {side} rib fracture", "rib fracture on the {side}", "{side} rib fracture"),
    "pacemaker": ("{side} chest pacemaker", "pacemaker on the {side}", "{side} pacemaker"),
    "central venous line": ("{side} central venous line", "central venous line from the {side}", "{side} central line"),
    "tracheal tube": ("tracheal tube", "endotracheal tube", "tracheal tube"),
    "free air": ("free air under the diaphragm", "free subdiaphragmatic air", "free air below the diaphragm"),
    "subcutaneous emphysema": (
        "{side} subcutaneous emphysema", "subcutaneous emphysema on the {side}", "{side} subcutaneous emphysema",
    ),
    "miliary opacities": (
        "miliary opacities in both lungs", "diffuse miliary opacities", "bilateral miliary opacities",
    ),
    "spinal rods": ("spinal fixation rods", "spinal rods", "spinal fixation rods"),
    "hiatal hernia": ("hiatal hernia", "hiatus hernia behind the heart", "hiatal hernia"),
    UNCLASSIFIED: (UNCLASSIFIED, "abnormality that is not further classified", UNCLASSIFIED),
    "haemorrhage": ("{side} intracerebral haemorrhage", "haemorrhage on the {side}", "{side} cerebral haemorrhage"),
    "subdural haematoma": (
        "{side} subdural haematoma", "subdural haematoma on the {side}", "{side} subdural haematoma",
    ),
    "infarct": ("{side} infarct", "infarct on the {side}", "{side} hemispheric infarct"),
    "mass": ("{side} mass with oedema", "mass with oedema on the {side}", "{side} cerebral mass"),
    "hydrocephalus": ("hydrocephalus", "enlarged ventricles", "hydrocephalus"),
    "retinal haemorrhages": ("{size} retinal haemorrhages", "{size} haemorrhages of the retina", "{size} haemorrhages"),
    "exudates": ("{size} hard exudates", "{size} exudates", "{size} hard exudates"),
    "drusen": ("drusen at the macula", "macular drusen", "drusen"),
    "disc cupping": ("cupping of the optic disc", "optic disc cupping", "enlarged cup of the optic disc"),
    "benign naevus": ("benign naevus", "regular pigmented naevus", "benign pigmented naevus"),
    "irregular lesion": ("irregular pigmented lesion", "pigmented lesion with irregular border", "irregular lesion"),
    "erythema": ("erythema with scale", "scaly erythema", "erythema"),
    "ulceration": ("ulceration with crust", "crusted ulceration", "ulceration"),
    "polyp": ("{size} polyp", "{size} polyp of the wall", "{size} polyp"),
    "ulcer": ("ulcer", "mucosal ulcer", "ulcer with fibrin"),
    "bleeding": ("active bleeding", "fresh blood", "bleeding"),
    "diverticulum": ("diverticulum", "opening of a diverticulum", "diverticulum"),
    "tumour": ("tumour with crowded atypical nuclei", "sheets of tumour cells", "tumour"),
    "inflammation": ("dense inflammation", "inflammatory infiltrate", "focal inflammation"),
    "necrosis": ("necrosis", "area of necrosis", "focal necrosis"),
}  # fmt: skip

#: Findings without an article; findings in the plural.
WITHOUT_ARTICLE = {
    "free air", "subcutaneous emphysema", "cardiomegaly", "atelectasis", "erythema", "ulceration", "bleeding",
    "inflammation", "necrosis", "hydrocephalus", "consolidation", "hilar enlargement", "disc cupping",
}  # fmt: skip
PLURAL = {"retinal haemorrhages", "exudates", "drusen", "miliary opacities", "spinal rods"}

_CHEST = {
    "heart": Structure(
        ("cardiomegaly",), ("The heart is of normal size.", "No enlargement of the heart.", "Heart size is normal.")
    ),
    "hila": Structure(("hilar enlargement",), ("The hila are normal.", "No hilar enlargement.", "Hila are normal.")),
    "lungs": Structure(
        ("consolidation", "nodule", "atelectasis"),
        ("The lungs are clear.", "No focal lung abnormality.", "Lungs are clear."),
    ),
    "effusion": Structure(
        ("pleural effusion",), ("There is no pleural effusion.", "No pleural effusion.", "No effusion.")
    ),
    "air": Structure(("pneumothorax",), ("There is no pneumothorax.", "No pneumothorax.", "No pneumothorax.")),
    "ribs": Structure(("rib fracture",), ("The ribs are intact.", "No rib fracture.", "Ribs are intact.")),
    "devices": Structure(
        ("pacemaker", "central venous line", "tracheal tube"),
        ("There are no devices.", "No lines or devices.", "No devices."),
    ),
    "other": Structure(
        ("free air", "subcutaneous emphysema", "miliary opacities", "spinal rods", "hiatal hernia", UNCLASSIFIED),
        ("There is no other abnormality.", "Nothing else of note.", "No other abnormality."),
    ),
}
_HEAD = {
    "blood": Structure(
        ("haemorrhage", "subdural haematoma"),
        ("There is no haemorrhage.", "No intracranial haemorrhage.", "No haemorrhage."),
    ),
    "infarct": Structure(("infarct",), ("There is no infarct.", "No territorial infarct.", "No infarct.")),
    "mass": Structure(("mass",), ("There is no mass.", "No intracranial mass.", "No mass.")),
    "ventricles": Structure(
        ("hydrocephalus",),
        ("The ventricles are normal.", "No enlargement of the ventricles.", "Ventricles are normal."),
    ),
}


def _verb(name: str) -> str:
    return "are" if name in PLURAL else "is"


def _single(*names: str) -> dict[str, Structure]:
    """Return a structure for each finding, with the plain negation."""
    return {
        name: Structure((name,), (f"There {_verb(name)} no {name}.", f"No {name} {_verb(name)} seen.", f"No {name}."))
        for name in names
    }


STRUCTURES: dict[str, dict[str, Structure]] = {
    "chest": _CHEST,
    "ct": _HEAD,
    "mr": _HEAD,
    "retina": {
        **_single("retinal haemorrhages", "exudates", "drusen"),
        "disc": Structure(
            ("disc cupping",), ("The optic disc is normal.", "No cupping of the disc.", "Optic disc is normal.")
        ),
    },
    "skin": {
        "lesion": Structure(
            ("benign naevus", "irregular lesion"),
            ("There is no pigmented lesion.", "No pigmented lesion is seen.", "No pigmented lesion."),
        ),
        **_single("erythema", "ulceration"),
    },
    "endoscopy": _single("polyp", "ulcer", "bleeding", "diverticulum"),
    "pathology": {
        "glands": Structure(("tumour",), ("The glands are regular.", "No tumour is seen.", "Glands are regular.")),
        **_single("inflammation", "necrosis"),
    },
}
#: Orders of the structures in a report; other image types: as listed, or the last one first.
ORDERS = {
    "chest": (
        ("heart", "hila", "lungs", "effusion", "air", "ribs", "devices", "other"),
        ("devices", "lungs", "effusion", "air", "heart", "hila", "ribs", "other"),
        ("lungs", "effusion", "air", "heart", "hila", "ribs", "devices", "other"),
    )
}
#: First sentence of a report in each style: a row for each order, a column for each wording.
VIEW = {
    "chest": (
        "Chest radiograph.", "Radiograph of the chest.", "Chest film.",
        "Frontal chest radiograph.", "Radiograph of the thorax.", "Frontal chest film.",
    ),
    "ct": (
        "CT of the head.", "Cranial CT.", "Head CT.",
        "CT of the brain.", "Axial cranial CT.", "Brain CT.",
    ),
    "mr": (
        "MRI of the head.", "Cranial MRI.", "Head MRI.",
        "MRI of the brain.", "Axial cranial MRI.", "Brain MRI.",
    ),
    "retina": (
        "Fundus photograph.", "Photograph of the fundus.", "Retinography.",
        "Retinal photograph.", "Photograph of the retina.", "Fundus.",
    ),
    "skin": (
        "Photograph of the skin.", "Skin photograph.", "Clinical photograph.",
        "Close photograph of the skin.", "Photograph of a skin area.", "Skin.",
    ),
    "endoscopy": (
        "Endoscopic image.", "Endoscopy still.", "Endoscopy.",
        "Endoscopic view.", "Image from endoscopy.", "Endoscopic still.",
    ),
    "pathology": (
        "Stained section.", "Section of glandular tissue.", "Histology.",
        "Histological section.", "Section of a gland.", "Microscopy.",
    ),
}  # fmt: skip
