"""The card of the served models as an Applied Model Card of the Coalition for Health AI, version 0.2 (mc.chai.org).

One document describes the installation with all models that it serves. A field that nothing here can fill says so: an
empty or invented one would be read as a statement.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from api.v1.model.markdown import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from api.v1.model.card import ModelCard, ServedModel

    #: Element with its text, or with its elements in the order of the schema.
    Node = tuple[str, str | list["Node"]]

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
NOT_STATED = "Not stated: this installation holds no record of it."
HOW_TO_USE = (
    "Read the images, then the draft; look first at the sentences that are flagged, and at what each rests on. A draft"
    " is preliminary until a physician has accepted it."
)
OUTPUTS = (
    "Text of a preliminary report with findings and impression, answers to questions, choices between diagnoses; with"
    " each finding the earlier cases and the score in the image that it rests on."
)
#: Characters that XML 1.0 excludes.
_EXCLUDED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(card: ModelCard) -> bytes:
    """Return the card as an XML document."""
    ET.register_namespace("mc", NAMESPACE)
    root = _element("AppliedModelCard", _sections(card))
    encoded: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return encoded


def _element(name: str, content: str | list[Node]) -> ET.Element:
    made = ET.Element(f"{{{NAMESPACE}}}{name}")
    if isinstance(content, str):
        made.text = _EXCLUDED.sub("\ufffd", content)
    else:
        made.extend(_element(*node) for node in content)
    return made


def _sections(card: ModelCard) -> list[Node]:
    return [
        ("BasicInfo", _basic(card.models)),
        ("ReleaseInfo", _release(card.models)),
        ("ModelSummary", _summary(card)),
        ("UsesAndDirections", _uses(card)),
        ("Warnings", _warnings(card)),
        ("TrustIngredients", [("AISystemFacts", _facts(card)), ("TransparencyInformation", _transparency())]),
        ("KeyMetrics", _metrics(card)),
        ("Resources", [("PeerReviewedPublications", NOT_STATED), ("PatientConsentOrDisclosure", NOT_STATED)]),
        ("Bibliography", ""),
    ]


def _basic(models: Sequence[ServedModel]) -> list[Node]:
    names = ", ".join(plain(model.digest[:12]) for model in models)
    return [
        ("ModelName", f"Prelim with the checkpoint {names}" if names else "Prelim; no worker is alive"),
        ("ModelDeveloper", NOT_STATED),
        ("DeveloperContact", NOT_STATED),
    ]


def _release(models: Sequence[ServedModel]) -> list[Node]:
    versions = [f"{plain(model.digest)}, prompt {plain(model.prompt_version or 'unknown')}" for model in models]
    stages = {None: "unknown", True: "demo: synthetic studies only, never patients", False: "in use at this site"}
    return [
        ("ReleaseStage", "; ".join(dict.fromkeys(stages[model.demo] for model in models)) or "no model is served"),
        ("ReleaseDate", NOT_STATED),
        ("ReleaseVersion", "; ".join(versions) or "no model is served"),
        ("GlobalAvailability", NOT_STATED),
    ]


def _summary(card: ModelCard) -> list[Node]:
    origins = [f"{plain(model.digest[:12])}: {_values(model.origin)}" for model in card.models if model.origin]
    keywords: list[Node] = [("Keyword", word) for word in ("radiology", "preliminary report", "vision-language model")]
    return [("Summary", " ".join((card.intended_use, *origins))), ("Keywords", keywords)]


def _uses(card: ModelCard) -> list[Node]:
    return [
        ("IntendedUseAndWorkflow", card.intended_use),
        ("PrimaryIntendedUsers", "Physicians who read radiology studies."),
        ("HowToUse", HOW_TO_USE),
        ("TargetedPatientPopulation", NOT_STATED),
        ("CautionedOutOfScopeSettings", " ".join(card.out_of_scope)),
    ]


def _warnings(card: ModelCard) -> list[Node]:
    return [
        ("KnownRisksAndLimitations", " ".join(card.limits)),
        ("KnownBiasesOrEthicalConsiderations", NOT_STATED),
        ("ClinicalRiskLevel", NOT_STATED),
    ]


def _facts(card: ModelCard) -> list[Node]:
    return [
        ("OutcomesAndOutputs", OUTPUTS),
        ("ModelType", "Vision-language model with retrieval of similar earlier cases."),
        ("InputDataSource", "DICOM images that modalities send to this installation, and its reference cases."),
        ("OutputAndInputDataTypes", "Input: images and text. Output: text."),
        ("DevelopmentDataCharacterization", _of_each(card, lambda model: _values(model.origin)) or NOT_STATED),
        ("BiasMitigationApproaches", NOT_STATED),
        ("OngoingMaintenance", NOT_STATED),
    ]


def _values(values: Mapping[str, object]) -> str:
    """Return values as text without markup: all fields may hold Markdown."""
    return "; ".join(f"{plain(name)}: {plain(json.dumps(value, ensure_ascii=False))}" for name, value in values.items())


def _of_each(card: ModelCard, text: Callable[[ServedModel], str]) -> str:
    """Return a text for each model, those that are not empty."""
    found = ((plain(model.digest[:12]), text(model)) for model in card.models)
    return "\n\n".join(f"{name}: {own}" for name, own in found if own)


def _transparency() -> list[Node]:
    return [("FundingSource", NOT_STATED), ("StakeholdersConsulted", NOT_STATED)]


def _metrics(card: ModelCard) -> list[Node]:
    figures = [(plain(model.digest[:12]), model.index.figures) for model in card.models if model.index]
    bounds = [
        (f"{plain(model.digest[:12])} {name}", group.model_dump(mode="json"))
        for model in card.models
        if model.certificate
        for name, group in model.certificate.groups.items()
    ]
    standing = _of_each(card, lambda model: " ".join(filter(None, (model.calibration, model.calibration_reason))))
    return [
        ("UsefulnessUsabilityEfficacy", _metric("Strict F1 of the findings by kind of study.", figures, NOT_STATED)),
        ("FairnessEquity", _metric(NOT_STATED, [], NOT_STATED)),
        ("SafetyReliability", _metric("Bound on the share of studies with a wrong shown finding.", bounds, standing)),
    ]


def _metric(goal: str, results: Sequence[tuple[str, object]], interpretation: str) -> list[Node]:
    """Return a metric with its results; the schema needs at least one, so that a missing one is null."""
    found = results or [("not measured", None)]
    values: list[Node] = [
        ("MetricResult", [("Label", label), ("ValueJson", json.dumps(value, ensure_ascii=False))])
        for label, value in found
    ]
    measured = "Measured by this installation." if results else NOT_STATED
    return [
        ("MetricGoal", goal),
        ("Results", values),
        ("Interpretation", interpretation or NOT_STATED),
        ("TestType", measured),
        ("TestingDataDescription", NOT_STATED),
        ("ValidationProcessAndJustification", NOT_STATED),
    ]
