"""The checkpoint in the repository: small, marked as a demo, and able to read."""

from __future__ import annotations

from deploy.demo.measure import Ruler, Size, reading
from deploy.demo.phantoms import TRAINING
from deploy.demo.show import CHECKPOINT
from worker.model.digest import is_demo
from worker.model.training import Trainee


def test_it_is_small_and_never_for_patients() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.glob("*.safetensors")) <= 8_000_000
    assert is_demo(CHECKPOINT)
    assert "never patients" in (CHECKPOINT / "README.md").read_text()


def test_it_reads_pictures_it_has_never_seen() -> None:
    ruler = Ruler(Trainee.load(CHECKPOINT), Size(chests=100, others=12, references=40), seed=3_900_000)

    figures = reading(ruler, TRAINING, ["chest", "ct", "skin"])

    assert figures["chest"]["strict_f1"] >= 0.93
    assert figures["chest"]["laterality"] >= 0.95
    assert min(figures[kind]["strict_f1"] for kind in ("ct", "skin")) >= 0.85
