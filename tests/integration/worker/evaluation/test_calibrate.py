"""`prelim calibrate` runs the worker's pipeline over a set and refuses what it cannot certify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from db.errors import ConfigurationError, NotPossible
from db.models import Certificate
from db.reports.certificates import Bindings, GroupFigures
from db.reports.certificates import Certificate as CertificateRecord
from db.session import transaction
from db.settings import Settings
from deploy.cli import app
from tests.unit.worker.fakes import FakeModel
from worker.evaluation.calibrate import certified, refusals
from worker.phantoms.datasets import write_calibration_cases, write_reference_cases
from worker.reference_build.importing import build_reference

if TYPE_CHECKING:
    from pathlib import Path


def test_small_set_is_refused_with_the_number_of_missing_findings(database_url: str, tmp_path: Path) -> None:
    settings, model = Settings(data_dir=tmp_path, database_url=database_url), FakeModel()
    write_calibration_cases(tmp_path / "cases", count=2, seed=1)
    write_reference_cases(tmp_path / "reference", count=4, seed=1)

    def calibrate(folder: str) -> None:
        certified(model, settings, tmp_path / folder, {"kind": "phantoms"}, alpha=0.05, delta=0.1)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match="no reference index"):
        calibrate("cases")
    build_reference(tmp_path / "reference", model, settings)  # type: ignore[arg-type]
    with pytest.raises(NotPossible, match="at least 59 more findings are missing") as refused:
        calibrate("cases")
    assert str(refused.value).count("shown in 0 studies") == 3
    with pytest.raises(ConfigurationError, match="of patients in the reference index"):
        calibrate("reference")
    with transaction(database_url) as session:
        assert session.scalar(select(func.count()).select_from(Certificate)) == 0


@pytest.mark.parametrize("arguments", [[], ["--from", "finals"], ["--from", "phantoms", "--cases", "."]])
def test_a_set_is_phantoms_or_a_folder_of_final_reports(arguments: list[str]) -> None:
    ran = CliRunner().invoke(app.app, ["calibrate", *arguments])

    assert ran.exit_code == 2
    assert "--from finals with --cases" in ran.output.replace("\n", " ")


def test_one_wrong_study_of_two_asks_for_more_and_twelve_of_sixty_for_no_larger_set() -> None:
    few, many = GroupFigures(2, 2, 1, 2, 1, 0.97, None, 91), GroupFigures(60, 60, 12, 60, 12, 0.3, None, 300)
    made = CertificateRecord(Bindings("d", "1", "s", "8"), 0.05, 0.1, {}, {"rare": few, "common": many}, [])

    rare, common = refusals(made)

    assert "at least 91 more findings are missing" in rare
    assert "a larger set would not help" in common
