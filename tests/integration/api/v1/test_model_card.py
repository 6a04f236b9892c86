"""The model card names the served checkpoint, its index and the standing of its verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from db import reference
from db.operations import heartbeats
from db.reports import certificates
from db.reports.certificates import Bindings
from db.session import transaction
from tests.integration.db.test_certificates import CERTIFICATE

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

CARD = {"demo": True, "prompt_version": "2", "labeller": "7", "origin": {"trained_on": "phantoms | <script>"}}


@pytest.fixture
def served(database_url: str) -> None:
    certificate = replace(CERTIFICATE, bindings=Bindings("abc", "2", "20261128", "7"))
    with transaction(database_url) as session:
        for host in ("a", "b"):
            info = {"model": "abc", "quantization": "int8", "card": CARD}
            heartbeats.record(session, heartbeats.Role.WORKER, info, process=f"{host}:1")
        heartbeats.record(session, heartbeats.Role.WORKER, {"model": "old"}, process="c:1")
        figures = {"validation": {"DX CHEST": {"f1": 0.8}}}
        reference.add_snapshot(session, directory="reference/20261128", model_digest="abc", cases=12, figures=figures)
        certificates.add(session, certificate)


@pytest.mark.usefixtures("served")
def test_card_has_each_served_model_with_its_index_and_certificate(client: TestClient) -> None:
    model, old = client.get("/v1/model").json()["models"]

    assert (model["digest"], model["workers"], model["demo"], model["quantization"]) == ("abc", 2, True, "int8")
    assert (model["index"]["snapshot"], model["index"]["cases"]) == ("20261128", 12)
    assert (model["calibration"], model["certificate"]["id"]) == ("certified", str(CERTIFICATE.id))
    assert (old["digest"], old["demo"], old["index"], old["calibration"]) == ("old", None, None, "uncalibrated")


@pytest.mark.usefixtures("served")
def test_suspended_certificate_is_not_in_the_card(client: TestClient, database_url: str) -> None:
    with transaction(database_url) as session:
        certificates.suspend(session, "the error rose")

    model = client.get("/v1/model").json()["models"][0]

    assert (model["calibration"], model["calibration_reason"]) == ("suspended", "the error rose")
    assert model["certificate"] is None


@pytest.mark.usefixtures("served")
def test_markdown_card_has_no_markup_of_a_manifest(client: TestClient) -> None:
    answer = client.get("/v1/model", params={"format": "markdown"})

    assert answer.headers["content-type"].startswith("text/markdown")
    assert "| trained on | phantoms \\| \\<script\\> |" in answer.text


def test_card_without_a_worker_has_no_model(client: TestClient) -> None:
    assert client.get("/v1/model").json()["models"] == []
    assert "No worker is alive" in client.get("/v1/model?format=markdown").text


def elements(node: ET.Element) -> dict[str, object]:
    """Return the names below an element, in order."""
    return {one.tag.partition("}")[2]: elements(one) for one in node}


KEY_METRIC = ("MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription")
#: Required elements of version 0.2 of the schema, in its order.
REQUIRED: dict[str, tuple[str, ...]] = {
    ".": (
        "BasicInfo", "ReleaseInfo", "ModelSummary", "UsesAndDirections", "Warnings", "TrustIngredients", "KeyMetrics",
        "Resources", "Bibliography",
    ),
    "BasicInfo": ("ModelName", "ModelDeveloper", "DeveloperContact"),
    "ReleaseInfo": ("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"),
    "ModelSummary": ("Summary", "Keywords"),
    "UsesAndDirections": (
        "IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse", "TargetedPatientPopulation",
        "CautionedOutOfScopeSettings",
    ),
    "Warnings": ("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel"),
    "TrustIngredients": ("AISystemFacts", "TransparencyInformation"),
    "TrustIngredients/AISystemFacts": (
        "OutcomesAndOutputs", "ModelType", "InputDataSource", "OutputAndInputDataTypes",
        "DevelopmentDataCharacterization", "BiasMitigationApproaches", "OngoingMaintenance",
    ),
    "TrustIngredients/TransparencyInformation": ("FundingSource", "StakeholdersConsulted"),
    "KeyMetrics": ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"),
    **{
        f"KeyMetrics/{name}": (*KEY_METRIC, "ValidationProcessAndJustification")
        for name in ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")
    },
    "KeyMetrics/FairnessEquity/Results/MetricResult": ("Label", "ValueJson"),
    "Resources": ("PeerReviewedPublications", "PatientConsentOrDisclosure"),
}  # fmt: skip


@pytest.mark.usefixtures("served")
def test_applied_model_card_has_the_elements_of_its_schema(client: TestClient) -> None:
    answer = client.get("/v1/model?format=chai")
    root = ET.fromstring(answer.text)
    names = {"mc": "https://mc.chai.org/v0.2/schema.xsd"}
    paths = {path: "/".join(f"mc:{name}" for name in path.split("/")) if path != "." else "." for path in REQUIRED}
    found = {path: tuple(elements(root.find(paths[path], names) or root)) for path in REQUIRED}

    assert answer.headers["content-type"] == "application/xml"
    assert root.tag == "{https://mc.chai.org/v0.2/schema.xsd}AppliedModelCard"
    assert found == REQUIRED
    assert "phantoms \\| \\<script\\>" in (root.findtext("mc:ModelSummary/mc:Summary", None, names) or "")
    assert str(CERTIFICATE.id) not in answer.text
    (value,) = root.iterfind("mc:KeyMetrics/mc:UsefulnessUsabilityEfficacy//mc:ValueJson", names)
    assert json.loads(value.text or "") == {"validation": {"DX CHEST": {"f1": 0.8}}}


def test_applied_model_card_without_a_model_states_nothing_about_one(client: TestClient) -> None:
    text = client.get("/v1/model?format=chai").text

    assert "no worker is alive" in text
    assert text.count("<mc:ValueJson>null</mc:ValueJson>") == 3
