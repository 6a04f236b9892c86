"""`prelim evaluate` with a random model: the steps and the files, not the figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from typer.testing import CliRunner

from db.errors import ConfigurationError
from db.settings import Settings
from deploy.cli import app
from worker.evaluation.evaluate import evaluate
from worker.evaluation.phantom_cases import evaluate_phantoms
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.phantoms.datasets import write_demo_studies, write_reference_cases

if TYPE_CHECKING:
    from pathlib import Path


CPU = Settings(device="cpu")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "random"
    write_random_checkpoint(directory)
    return directory


def test_a_folder_of_cases_is_evaluated_with_json_and_plot(checkpoint: Path, tmp_path: Path) -> None:
    write_demo_studies(tmp_path / "cases", count=4, seed=3)
    write_reference_cases(tmp_path / "earlier", count=8, seed=3)

    result = evaluate(tmp_path / "cases", checkpoint, CPU, reference=tmp_path / "earlier", out=tmp_path / "out")

    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (result.cases, result.failed) == (4, [])
    assert set(figures["figures"]["strict_f1"]) == {"value", "low", "high"}
    assert figures["retrieval"] is True
    assert figures["seconds_per_case"] > 0
    with Image.open(tmp_path / "out" / "evaluation.png") as image:
        assert image.size[0] == 640


def test_no_retrieval_leaves_out_reference_cases(checkpoint: Path, tmp_path: Path) -> None:
    with_it = evaluate_phantoms(2, checkpoint, CPU, seed=1, retrieval=True, references=24)
    without = evaluate_phantoms(2, checkpoint, CPU, seed=1, retrieval=False, out=tmp_path)

    assert "support@3" in with_it.support
    assert without.support == {}
    assert json.loads((tmp_path / "evaluation.json").read_text())["retrieval"] is False


def test_the_command_prints_every_table(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DEVICE", "cpu")
    arguments = [
        "evaluate",
        "--phantoms",
        "2",
        "--no-retrieval",
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(tmp_path),
    ]
    ran = CliRunner().invoke(app.app, arguments)

    assert ran.exit_code == 0, ran.output
    for word in ("strict_f1", "95 % interval", "planted error", "negation"):
        assert word in ran.output


@pytest.mark.parametrize("arguments", [[], ["--phantoms", "2", "--cases", "somewhere"]])
def test_either_a_folder_or_a_number_of_phantoms_is_required(checkpoint: Path, arguments: list[str]) -> None:
    ran = CliRunner().invoke(app.app, ["evaluate", "--checkpoint", str(checkpoint), *arguments])

    assert ran.exit_code == 2
    assert "--cases or --phantoms" in ran.output


def test_an_earlier_case_of_the_same_patient_is_not_quoted(checkpoint: Path, tmp_path: Path) -> None:
    write_demo_studies(tmp_path, count=3, seed=3)
    lines = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    own = [lines[0] | {"case_id": f"again {number}"} for number in range(3)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *own]))

    result = evaluate(tmp_path, checkpoint, CPU, reference=tmp_path)

    assert result.support == {}


def test_the_same_study_is_not_quoted_if_no_patient_is_listed(checkpoint: Path, tmp_path: Path) -> None:
    write_demo_studies(tmp_path, count=3, seed=3)
    lines = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    for line in lines:
        del line["patient"]
    again = [lines[0] | {"case_id": f"again {number}"} for number in range(3)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *again]))

    result = evaluate(tmp_path, checkpoint, CPU, reference=tmp_path)

    assert result.support == {}


def test_an_unwritable_output_folder_is_rejected_before_the_evaluation(tmp_path: Path) -> None:
    write_demo_studies(tmp_path / "cases", count=1, seed=3)
    (tmp_path / "out").write_text("a file")

    with pytest.raises(ConfigurationError, match="output folder .*out cannot be created"):
        evaluate(tmp_path / "cases", tmp_path / "no checkpoint", CPU, out=tmp_path / "out")


def test_a_folder_without_cases_names_the_expected_file(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cases\.jsonl"):
        evaluate(tmp_path, checkpoint, CPU)
