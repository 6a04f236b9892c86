"""`prelim bootstrap` writes pairs of studies with confirmed findings, with the configured checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner, Result

from db.errors import ConfigurationError
from deploy.cli import app
from deploy.demo.demo import CHECKPOINT
from worker.phantoms.cases import Case, Finding
from worker.phantoms.dicom_files import write_study

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: A chest with a seed that is a multiple of four has a lateral view.
TWO_VIEWS = Case("chest", 8, (Finding("cardiomegaly", size="marked"),))
LESION = Case("skin", 5, (Finding("irregular lesion"),))


def prelim(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, [str(argument) for argument in arguments])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def line_of(folder: Path, case: Case) -> dict[str, Any]:
    """Write a case and return its line of labels."""
    files = [path.relative_to(folder) for path in write_study(case, folder / case.image, patient=case.seed)]
    labels = [finding.name for finding in case.findings]
    return {"case_id": case.image, "files": [str(file) for file in files], "labels": labels, "confirmed_by": "reader 1"}


def test_bootstrap_writes_pairs_and_names_the_studies_without_one(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", database_url)
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PRELIM_CHECKPOINT", str(CHECKPOINT))
    folder, out = tmp_path / "cases", tmp_path / "pairs"
    lines = [line_of(folder, case) for case in (TWO_VIEWS, LESION)]
    lines.append(lines[0] | {"case_id": "3", "files": ["missing.dcm"]})
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    done = prelim("bootstrap", "--cases", path, "--out", out, "--format", "internvl")

    assert done.exit_code == 0, done.output
    assert f"2 pairs of 3 studies in {out}" in done.output.replace("\n", "")
    assert "not_reported: missing: 1" in done.output
    written = {one["id"]: one for file in out.glob("*.jsonl") for one in lines_of(file)}
    assert isinstance(written["skin"]["image"], str)
    assert len(written["chest"]["image"]) == 2
    assert "lesion" in written["skin"]["conversations"][1]["value"]
    sheet = json.loads((out / "datasheet.json").read_text())
    assert (sheet["demo"], sheet["yield"], sum(sheet["splits"].values())) == (True, 0.6667, 2)


def test_bootstrap_rejects_an_invalid_line_before_it_loads_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRELIM_CHECKPOINT", str(tmp_path / "none"))
    path = tmp_path / "labels.jsonl"
    path.write_text('{"case_id": "1", "files": ["1.dcm"], "labels": ["left nodule"]}\n')

    refused = prelim("bootstrap", "--cases", path, "--out", tmp_path / "pairs")

    assert isinstance(refused.exception, ConfigurationError)
    assert "invalid line 1 of the labelled cases: confirmed_by is missing" in str(refused.exception)
