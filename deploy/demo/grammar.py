"""A case -> the report a reader would dictate: three styles of wording and order, each structure mentioned once.

The style is fixed by the first sentence, so that the rest is certain: where every sentence chose its own words, the
words of a finding would share their probability and a model that takes the likeliest word would tend to deny it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.demo.cases import UNCLASSIFIED, Finding

if TYPE_CHECKING:
    import numpy as np

    from deploy.demo.cases import Case

STYLES = 3


@dataclass(frozen=True, slots=True)
class Structure:
    """A part of the picture: the findings it can have, and how each style says that it has none."""

    findings: tuple[str, ...]
    clear: tuple[str, str, str]


#: Noun phrase of a finding in each style; {side}, {zone} and {size} are filled in.
PHRASES: dict[str, tuple[str, str, str]] = {
    "cardiomegaly": ("{size} cardiomegaly", "{size} enlargement of the heart", "{size} cardiac enlargement"),
    "pleural effusion": (
        "{size} {side} pleural effusion",
        "{size} pleural effusion on the {side}",
        "{size} {side} effusion",
    ),
    "pneumothorax": ("{size} {side} pneumothorax", "{size} pneumothorax on the {side}", "{size} {side} pneumothorax"),
    "consolidation": (
        "consolidation in the {side} {zone} zone",
        "airspace opacity in the {zone} {side} lung",
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
        "{side} subcutaneous emphysema",
        "subcutaneous emphysema on the {side}",
        "{side} subcutaneous emphysema",
    ),
    "miliary opacities": (
        "miliary opacities in both lungs",
        "diffuse miliary opacities",
        "bilateral miliary opacities",
    ),
    "spinal rods": ("spinal fixation rods", "spinal rods", "spinal fixation rods"),
    "hiatal hernia": ("hiatal hernia", "hiatus hernia behind the heart", "hiatal hernia"),
    UNCLASSIFIED: (UNCLASSIFIED, "abnormality that is not further classified", UNCLASSIFIED),
    "haemorrhage": ("{side} intracerebral haemorrhage", "haemorrhage on the {side}", "{side} cerebral haemorrhage"),
    "subdural haematoma": (
        "{side} subdural haematoma",
        "subdural haematoma on the {side}",
        "{side} subdural haematoma",
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
}

#: Said without an article, in the singular; and in the plural.
_MASS = {
    "free air",
    "subcutaneous emphysema",
    "cardiomegaly",
    "atelectasis",
    "erythema",
    "ulceration",
    "bleeding",
    "inflammation",
    "necrosis",
    "hydrocephalus",
    "consolidation",
    "hilar enlargement",
    "disc cupping",
}
_PLURAL = {"retinal haemorrhages", "exudates", "drusen", "miliary opacities", "spinal rods"}

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
        (
            "free air",
            "subcutaneous emphysema",
            "miliary opacities",
            "spinal rods",
            "hiatal hernia",
            UNCLASSIFIED,
        ),
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
    return "are" if name in _PLURAL else "is"


def _one_by_one(*names: str) -> dict[str, Structure]:
    """A structure a finding, denied in the plain way."""
    return {
        name: Structure((name,), (f"There {_verb(name)} no {name}.", f"No {name} {_verb(name)} seen.", f"No {name}."))
        for name in names
    }


STRUCTURES: dict[str, dict[str, Structure]] = {
    "chest": _CHEST,
    "ct": _HEAD,
    "mr": _HEAD,
    "retina": {
        **_one_by_one("retinal haemorrhages", "exudates", "drusen"),
        "disc": Structure(
            ("disc cupping",), ("The optic disc is normal.", "No cupping of the disc.", "Optic disc is normal.")
        ),
    },
    "skin": {
        "lesion": Structure(
            ("benign naevus", "irregular lesion"),
            ("There is no pigmented lesion.", "No pigmented lesion is seen.", "No pigmented lesion."),
        ),
        **_one_by_one("erythema", "ulceration"),
    },
    "endoscopy": _one_by_one("polyp", "ulcer", "bleeding", "diverticulum"),
    "pathology": {
        "glands": Structure(("tumour",), ("The glands are regular.", "No tumour is seen.", "Glands are regular.")),
        **_one_by_one("inflammation", "necrosis"),
    },
}
_ORDER = {
    "chest": (
        ("heart", "hila", "lungs", "effusion", "air", "ribs", "devices", "other"),
        ("devices", "lungs", "effusion", "air", "heart", "hila", "ribs", "other"),
        ("lungs", "effusion", "air", "heart", "hila", "ribs", "devices", "other"),
    )
}
_VIEW = {
    "chest": ("Chest radiograph.", "Radiograph of the chest.", "Chest film."),
    "ct": ("CT of the head.", "Cranial CT.", "Head CT."),
    "mr": ("MRI of the head.", "Cranial MRI.", "Head MRI."),
    "retina": ("Fundus photograph.", "Photograph of the fundus.", "Retinography."),
    "skin": ("Photograph of the skin.", "Skin photograph.", "Clinical photograph."),
    "endoscopy": ("Endoscopic image.", "Endoscopy still.", "Endoscopy."),
    "pathology": ("Stained section.", "Section of glandular tissue.", "Histology."),
}
_POSITIVE = ("There is {article}{phrase}.", "{Phrase} is seen.", "{Phrase}.")
_NORMAL = ("No acute abnormality.", "Normal study.", "No abnormality.")
#: What is said of a picture that is none: of every kind alike.
NOT_DIAGNOSTIC = "Findings: The image is not diagnostic. Impression: Not diagnostic."


def write(case: Case, rng: np.random.Generator) -> str:
    """The report of *case*, in a style *rng* chooses."""
    return report(case, int(rng.integers(STYLES)))


def report(case: Case, style: int) -> str:
    """The report of *case* in one of the STYLES."""
    findings = case.findings + ((Finding(UNCLASSIFIED),) if case.odd else ())
    structures = STRUCTURES[case.picture]
    order = _ORDER.get(case.picture, (tuple(structures),) * STYLES)[style]
    present = [finding for name in order for finding in _of(structures[name], findings)]
    said = [_VIEW[case.picture][style]]
    for name in order:
        here = _of(structures[name], findings)
        said += [_sentence(finding, style) for finding in here] or [structures[name].clear[style]]
    impression = " ".join(_capital(phrase(finding, style)) + "." for finding in present) or _NORMAL[style]
    return f"Findings: {' '.join(said)} Impression: {impression}"


def phrase(finding: Finding, style: int = 0) -> str:
    """The noun phrase of a finding."""
    text = PHRASES[finding.name][style].format(side=finding.side, zone=finding.zone, size=finding.size)
    return " ".join(text.split())


def _of(structure: Structure, findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for name in structure.findings for finding in findings if finding.name == name]


def _sentence(finding: Finding, style: int) -> str:
    words = phrase(finding, style)
    plural = finding.name in _PLURAL or words == "enlarged ventricles"
    article = "" if plural or finding.name in _MASS else ("an " if words[0] in "aeiou" else "a ")
    sentence = _POSITIVE[style].format(article=article, phrase=words, Phrase=_capital(words))
    return sentence.replace(" is ", " are ") if plural else sentence


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
