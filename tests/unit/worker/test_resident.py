"""The resident: heartbeat figures, stalls, and the guard of a demo checkpoint."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import ConfigurationError, PermanentFailure, TransientFailure
from db.settings import Settings
from worker.model.engine.metrics import Meter
from worker.pipeline.pipeline import StudyToReport
from worker.resident import Resident, import_reference

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("alive", "seconds"), [(True, 3.0), (False, math.inf)])
def test_dead_engine_counts_as_stalled_without_limit(tmp_path: Path, alive: bool, seconds: float) -> None:
    model = SimpleNamespace(engine=SimpleNamespace(alive=alive, stalled_seconds=3.0))

    assert Resident(model, Settings(data_dir=tmp_path)).stalled_seconds == seconds


def test_heartbeat_figures_are_the_actual_slots_and_engine_metrics(tmp_path: Path) -> None:
    figures = Meter().read(queued=2, running=1, rows=3, kv_tokens_used=70, kv_tokens=300, stalled_seconds=0.0)
    manifest = SimpleNamespace(values={"trained_on": "phantoms", "files": {"a": {}}, "digest": "abc", "demo": True})
    engine = SimpleNamespace(metrics=lambda: figures, device_lost=False)
    values = {"digest": "abc", "demo": True, "prompt_version": "2", "gpus": ["GPU-1"]}
    model = SimpleNamespace(**values, engine=engine, manifest=manifest)

    info = Resident(model, Settings(data_dir=tmp_path, worker_slots=8)).info

    assert (info["slots"], info["gpus"]) == (3, ["GPU-1"])
    assert info["engine"]["queued"] == 2
    assert (info["card"]["prompt_version"], info["card"]["origin"]) == ("2", {"trained_on": "phantoms"})
    assert json.loads(json.dumps(info)) == info


@pytest.mark.parametrize("called", [{"PRELIM"}, {"PRELIM", "PRELIM_DEMO"}, set()])
def test_demo_checkpoint_rejects_studies_sent_to_other_ae_titles(tmp_path: Path, called: set[str]) -> None:
    demo = Resident(SimpleNamespace(demo=True), Settings(data_dir=tmp_path))
    study = StudyToReport([], called_ae_titles=frozenset(called))

    with pytest.raises(PermanentFailure) as rejected:
        demo.write(study, lambda: None)

    assert rejected.value.reason == "demo_checkpoint"
    for word in ("PRELIM_CHECKPOINT", "prelim retry", "PRELIM_DEMO_AE_TITLES"):
        assert word in rejected.value.detail


def test_unknown_names_are_rejected_before_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text('{"case_id": "1", "files": ["1.dcm"], "report": "Normal."}')
    settings = Settings(data_dir=tmp_path, checkpoint=tmp_path / "missing")

    with pytest.raises(ConfigurationError, match="no case 2 in"):
        import_reference(tmp_path, settings, names=["1", "2"])


def test_worker_whose_checkpoint_changed_on_disk_writes_no_report(tmp_path: Path) -> None:
    figures = Meter().read(queued=0, running=0, rows=3, kv_tokens_used=0, kv_tokens=300, stalled_seconds=0.0)
    manifest = SimpleNamespace(values={"trained_on": "phantoms", "files": {}, "digest": "abc", "demo": False})
    engine = SimpleNamespace(metrics=lambda: figures, device_lost=False)
    values = {"digest": "abc", "demo": False, "prompt_version": "2", "gpus": []}
    model: Any = SimpleNamespace(**values, engine=engine, manifest=manifest)
    damaged: Any = SimpleNamespace(damaged="model.safetensors")
    resident = Resident(model, Settings(data_dir=tmp_path), damaged)

    with pytest.raises(TransientFailure, match=r"model\.safetensors of the checkpoint has changed"):
        resident.write(StudyToReport([]), lambda: None)

    assert resident.info["checkpoint_damaged"] == "model.safetensors"
