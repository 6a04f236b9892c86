"""The demo, and correct reports from C-STORE to the page."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.demo.demo import CHECKPOINT, STUDIES
from tests.e2e.conftest import PRELIM, environment_in, running_system
from worker.findings.labeller import present
from worker.phantoms.cases import Case, Finding
from worker.phantoms.dicom_files import study_uid, write_study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import System

pytestmark = pytest.mark.slow

#: Drawn cases, and a word that the page of each must contain.
DRAWN = (
    (Case("chest", 11, (Finding("pleural effusion", side="left", size="large"),)), "left"),
    (Case("chest", 12, (Finding("pneumothorax", side="right", size="large"),)), "right"),
    (Case("chest", 13, (Finding("cardiomegaly", size="marked"), Finding("pacemaker", side="left"))), "pacemaker"),
    (Case("chest", 14), "normal"),
    (Case("ct", 15, (Finding("subdural haematoma", side="right"),)), "subdural haematoma"),
    (Case("pathology", 16, (Finding("tumour"),)), "tumour"),
)


@pytest.mark.timeout(700)
def test_demo_reports_every_study_and_nearly_all_as_drawn(tmp_path: Path) -> None:
    demo = subprocess.run(
        [PRELIM, "demo", "--exit", "--seed", "7"],
        env={**environment_in(tmp_path), "PRELIM_MAX_NEW_TOKENS": "256", "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
        timeout=680,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Flower" in demo.stdout
    for column in ("reference report", "report", "findings"):
        assert column in demo.stdout
    assert demo.stdout.count("as drawn") >= STUDIES - 1, demo.stdout


@pytest.fixture(scope="module")
def demo_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """System with the shipped checkpoint that has reported the drawn cases."""
    folder = tmp_path_factory.mktemp("demo")
    for number, (case, _) in enumerate(DRAWN):
        write_study(case, folder / "studies" / str(number), patient=number)
    changes = {"PRELIM_CHECKPOINT": str(CHECKPOINT), "PRELIM_DTYPE": "float32", "PRELIM_MAX_NEW_TOKENS": "256"}
    with running_system(folder, **changes) as system:
        system.prelim("send", str(folder / "studies"))
        system.wait_for_reports(len(DRAWN))
        yield system


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", range(len(DRAWN)))
def test_report_matches_the_drawn_findings(demo_system: System, number: int) -> None:
    case, word = DRAWN[number]
    with demo_system.api() as api:
        studies = api.get("/v1/studies").json()["studies"]
        study = next(row for row in studies if row["study_instance_uid"] == study_uid(case, number))
        report = api.get(f"/v1/studies/{study['id']}/report").json()
        page = api.get(f"/studies/{study['id']}").text

    found = {label.strict for label in present(f"Findings: {report['findings']} Impression: {report['impression']}")}
    assert found == {(finding.name, finding.side, finding.zone) for finding in case.findings}
    assert all(sentence["text"] in page for sentence in report["sentences"])
    # The system has no reference index: what the text affirms is shown, and flagged.
    affirmed = [f for s in report["sentences"] for f in s["findings"] if f["certainty"] == "present"]
    assert all(f["verdict"] == "not measurable" and f["flagged"] and f["log_prob"] <= 0 for f in affirmed)
    assert (report["calibration"], page.count("[check: not measurable]") > 0) == ("uncalibrated", bool(affirmed))
    assert word in page.lower()
