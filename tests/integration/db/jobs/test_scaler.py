"""The query by which KEDA counts work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from sqlalchemy import text

from db.session import transaction
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals

MANIFEST = REPOSITORY / "deploy" / "kubernetes" / "components" / "keda" / "scaler.yaml"


def query() -> str:
    scaler = next(
        document for document in yaml.safe_load_all(MANIFEST.read_text()) if document["kind"] == "ScaledObject"
    )
    return str(scaler["spec"]["triggers"][0]["metadata"]["query"])


def counted(url: str) -> object:
    with transaction(url) as session:
        return session.execute(text(query())).scalar_one()


def test_scaler_counts_queued_and_running_jobs(arrivals: Arrivals) -> None:
    assert counted(arrivals.url) == 0

    arrivals.image()
    arrivals.settle()
    assert counted(arrivals.url) == 1

    assert arrivals.claim() is not None
    assert counted(arrivals.url) == 1, "a busy worker must not be ended"
