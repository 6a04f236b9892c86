"""The model card names the served checkpoint, its index and the standing of its verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
