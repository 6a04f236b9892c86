"""Each import contract breaks when a new file that no contract names breaks its rule."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("api", "db", "deploy", "dicom_listener", "worker")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]

#: Contract: (new file, its forbidden import, the import as import-linter reports it).
VIOLATIONS = {
    "deploy > api | dicom_listener | worker > db": [
        ("db/studies/planted.py", "import api.app", "db.studies.planted -> api.app"),
        ("api/v1/planted_worker.py", "import worker.pipeline.pipeline", "api.v1.planted_worker -> worker.pipeline"),
    ],
    "worker: one way from the Celery process to the findings": [
        ("worker/images/planted_model.py", "import worker.model.chat", "worker.images.planted_model -> worker.model"),
        (
            "worker/grounding/planted.py",
            "import worker.retrieval.features",
            "worker.grounding.planted -> worker.retrieval",
        ),
        ("worker/model/planted.py", "import worker.phantoms.cases", "worker.model.planted -> worker.phantoms.cases"),
        ("worker/planted_folder.py", "", "- worker.planted_folder"),
    ],
    "dicom_listener: one way from the conformance statement to the DICOM definitions": [
        ("dicom_listener/spool/planted.py", "import dicom_listener.dispatch", "dicom_listener.spool.planted -> "),
        ("dicom_listener/planted_folder.py", "", "- dicom_listener.planted_folder"),
    ],
    "deploy: one way from the command line to the spawned process": [
        ("deploy/embedded/planted.py", "import deploy.operate.status", "deploy.embedded.planted -> "),
        ("deploy/planted_folder.py", "", "- deploy.planted_folder"),
    ],
    "api: one way from the server to the errors": [
        ("api/access/planted.py", "import api.page.login", "api.access.planted -> api.page.login"),
        ("api/planted_folder.py", "", "- api.planted_folder"),
    ],
    "db: one way from the operations queries to the tables": [
        ("db/models/planted.py", "import db.studies.settling", "db.models.planted -> db.studies.settling"),
        ("db/planted_folder.py", "", "- db.planted_folder"),
    ],
    "torch only in worker.model and worker.training": [
        ("worker/retrieval/planted.py", "import torch", "worker.retrieval.planted -> torch"),
        ("api/v1/planted.py", "import transformers", "api.v1.planted -> transformers"),
    ],
    "faiss only in worker.retrieval": [("worker/model/planted_faiss.py", "import faiss", "planted_faiss -> faiss")],
    "OpenTelemetry only in deploy.operate.traces.collector": [
        ("deploy/operate/traces/planted.py", "import opentelemetry.sdk", "operate.traces.planted -> opentelemetry"),
        ("worker/planted_traces.py", "import opentelemetry", "worker.planted_traces -> opentelemetry"),
    ],
    "pynetdicom only in dicom_listener": [
        ("worker/images/planted_network.py", "import pynetdicom", "planted_network -> pynetdicom"),
    ],
    "db imports no DICOM library, no numpy, no PIL and no fastapi": [
        ("db/jobs/planted.py", "import fastapi", "db.jobs.planted -> fastapi"),
    ],
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter reports of a copy with every violation planted, by contract."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    for root in ROOTS:
        shutil.copytree(REPOSITORY / root, copy / root, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for planted in VIOLATIONS.values():
        for file, statement, _ in planted:
            (copy / file).write_text(f"{statement}\n")
    lint = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    sections = re.split(r"\n([^\n]+)\n-{5,}\n", lint.stdout.partition("Broken contracts")[2])
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def test_every_contract_has_a_planted_violation() -> None:
    assert sorted(VIOLATIONS) == sorted(CONTRACTS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_forbidden_import_in_a_new_file_breaks_its_contract(contract: str, broken: dict[str, str]) -> None:
    for _, _, reported in VIOLATIONS[contract]:
        assert reported in broken.get(contract, "")
