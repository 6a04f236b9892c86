"""Cases: the catalogue of findings of each image type, and random cases from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "middle", "lower")
#: Name of an object that belongs to no finding of the catalogue.
UNCLASSIFIED = "unclassified abnormality"


@dataclass(frozen=True, slots=True)
class Kind:
    """A finding of the catalogue: its name, its possible positions and the words for its sizes."""

    name: str
    sided: bool = False
    zoned: bool = False
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of a case; side is the patient's, empty if the kind has none."""

    name: str
    side: str = ""
    zone: str = ""
    size: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """Content of an image. `level` is the height of an axial slice, -1 (foot) to 1 (head), 0 for other images."""

    image: str
    seed: int
    findings: tuple[Finding, ...] = ()
    level: float = 0.0
    #: True if the image also shows an object that belongs to no finding.
    distractor: bool = False


SMALL_LARGE = ("small", "large")
MILD_MARKED = ("mild", "marked")
FEW_MANY = ("few", "numerous")

CHEST = (
    Kind("cardiomegaly", sizes=MILD_MARKED),
    Kind("pleural effusion", sided=True, sizes=SMALL_LARGE),
    Kind("pneumothorax", sided=True, sizes=SMALL_LARGE),
    Kind("consolidation", sided=True, zoned=True),
    Kind("nodule", sided=True, zoned=True),
    Kind("atelectasis", sided=True),
    Kind("hilar enlargement", sided=True),
    Kind("rib fracture", sided=True),
    Kind("pacemaker", sided=True),
    Kind("central venous line", sided=True),
    Kind("tracheal tube"),
)
#: Each in about one of 200 chests of the training, so that their names come from similar reference cases.
CHEST_RARE = (
    Kind("free air"),
    Kind("subcutaneous emphysema", sided=True),
    Kind("miliary opacities"),
    Kind("spinal rods"),
    Kind("hiatal hernia"),
)
HEAD = (
    Kind("haemorrhage", sided=True),
    Kind("subdural haematoma", sided=True),
    Kind("infarct", sided=True),
    Kind("mass", sided=True),
    Kind("hydrocephalus"),
)
CATALOGUE: dict[str, tuple[Kind, ...]] = {
    "chest": CHEST,
    "ct": HEAD,
    "mr": HEAD,
    "retina": (
        Kind("retinal haemorrhages", sizes=FEW_MANY),
        Kind("exudates", sizes=FEW_MANY),
        Kind("drusen"),
        Kind("disc cupping"),
    ),
    "skin": (Kind("benign naevus"), Kind("irregular lesion"), Kind("erythema"), Kind("ulceration")),
    "endoscopy": (Kind("polyp", sizes=SMALL_LARGE), Kind("ulcer"), Kind("bleeding"), Kind("diverticulum")),
    "pathology": (Kind("tumour"), Kind("inflammation"), Kind("necrosis")),
}
ANYWHERE = frozenset(ZONES)
#: Zones of its side in which a finding hides any other; "" is a whole hemisphere.
_FILLS: dict[tuple[str, str], frozenset[str]] = {
    ("pleural effusion", "small"): frozenset({"lower"}),
    ("pleural effusion", "large"): frozenset({"middle", "lower"}),
    ("pneumothorax", "large"): ANYWHERE,
    ("atelectasis", ""): frozenset({"lower"}),
    ("pacemaker", ""): frozenset({"upper"}),
    ("haemorrhage", ""): frozenset({""}),
    ("infarct", ""): frozenset({""}),
    ("mass", ""): frozenset({""}),
}
#: Kinds that hide each other, or cannot be told apart.
_APART = (
    {"benign naevus", "irregular lesion"},
    {"spinal rods", "tracheal tube"},
    {"pneumothorax", "subcutaneous emphysema"},
    {"pneumothorax", "pleural effusion"},
    {"haemorrhage", "hydrocephalus"},
)
#: Probabilities of zero, one, two ... findings.
_COUNT_CHEST = (0.28, 0.34, 0.24, 0.14)
_COUNT_OTHER = (0.25, 0.45, 0.30)


def draw_case(rng: np.random.Generator, image: str, *, rare: str = "", distractor: bool = False) -> Case:
    """Draw a random case of an image type; *rare* adds that rare chest finding, *distractor* an object."""
    count = rng.choice(4, p=_COUNT_CHEST) if image == "chest" else rng.choice(3, p=_COUNT_OTHER)
    if rare or distractor:
        count = min(int(count), 2)
    findings = [draw_finding(rng, kind) for kind in CHEST_RARE if kind.name == rare]
    kinds = CATALOGUE[image]
    for index in rng.permutation(len(kinds))[: int(count)]:
        finding = draw_finding(rng, kinds[index])
        if all(_both_visible(finding, other) for other in findings):
            findings.append(finding)
    level = float(rng.uniform(-0.3, 0.3)) if image in {"ct", "mr"} else 0.0
    ordered = tuple(sorted(findings, key=lambda finding: (finding.name, finding.side)))
    return Case(image, int(rng.integers(2**31)), ordered, level, distractor)


def with_names(case: Case, names: Mapping[str, str]) -> Case:
    """Return the case with findings renamed by *names*; its image stays the same."""
    return replace(case, findings=tuple(replace(f, name=names.get(f.name, f.name)) for f in case.findings))


def unclassified(case: Case, names: Collection[str]) -> Case:
    """Return the case with the findings *names* replaced by an unclassified abnormality."""
    kept = tuple(finding for finding in case.findings if finding.name not in names)
    return replace(case, findings=kept, distractor=case.distractor or len(kept) < len(case.findings))


def places(kind: Kind) -> list[tuple[str, str, str]]:
    """Return the classes that a finding of *kind* is scored by: its name with each possible side and zone."""
    sides, zones = SIDES if kind.sided else ("",), ZONES if kind.zoned else ("",)
    return [(kind.name, side, zone) for side in sides for zone in zones]


def _both_visible(one: Finding, other: Finding) -> bool:
    return {one.name, other.name} not in _APART and not _filled(one) & _filled(other)


def _filled(finding: Finding) -> set[tuple[str, str]]:
    """Return the sides and zones in which no other finding would be visible."""
    if (finding.name, finding.size) == ("cardiomegaly", "marked"):
        return {("left", "lower")}
    zones = {finding.zone} if finding.zone else _FILLS.get((finding.name, finding.size), set[str]())
    return {(finding.side, zone) for zone in zones}


def draw_finding(rng: np.random.Generator, kind: Kind) -> Finding:
    """Draw side, zone and size of a finding of *kind*."""
    return Finding(
        kind.name,
        side=str(rng.choice(SIDES)) if kind.sided else "",
        zone=str(rng.choice(ZONES)) if kind.zoned else "",
        size=str(rng.choice(kind.sizes)) if kind.sizes else "",
    )
