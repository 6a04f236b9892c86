from __future__ import annotations

import math
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from db.errors import ConfigurationError
from worker.model import placement
from worker.model.checkpoint import atomic, commands, sizing
from worker.model.checkpoint.manifest import write_manifest
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.worker.model.conftest import Parity


def test_convert_info_and_verify_work_on_the_published_layout(
    parity: Parity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "converted"

    commands.convert(parity.checkpoint, target)
    converted = capsys.readouterr().out
    commands.info(target)
    commands.verify(target)

    shown = converted + capsys.readouterr().out
    assert "not checked: whether it reads images" in " ".join(converted.split())
    assert " ".join(shown.split()).count("not checked: whether it reads images") == len(("convert", "verify"))
    assert "converted" in shown
    assert "768 bytes" in shown, "4 layers x 3 heads x 16 numbers x keys and values x 2 bytes"
    assert "works" in shown


def test_verify_rejects_a_changed_shard(converted: Path, tmp_path: Path) -> None:
    target = tmp_path / "changed"
    target.mkdir()
    for path in converted.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    shard = next(target.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"\0\0\0\1")

    with pytest.raises(ConfigurationError, match="has changed since the manifest was written"):
        commands.verify(target)


def with_tensor(source: Path, target: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a checkpoint, one tensor changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    name = next(name for name in tensors if name.endswith("multi_modal_projector.linear_2.bias"))
    save_file(tensors | {name: change(tensors[name])}, target / "model.safetensors", metadata={"format": "pt"})
    write_manifest(target, {"demo": True})
    return target


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_verify_rejects_weights_that_are_not_finite(random_checkpoint: Path, tmp_path: Path, number: float) -> None:
    damaged = with_tensor(random_checkpoint, tmp_path / "damaged", lambda tensor: torch.full_like(tensor, number))

    with pytest.raises(ConfigurationError, match="non-finite numbers: its weights are damaged"):
        commands.verify(damaged)


def test_weights_too_large_for_the_dtype_are_rejected_at_start(random_checkpoint: Path, tmp_path: Path) -> None:
    large = with_tensor(random_checkpoint, tmp_path / "large", lambda tensor: torch.full_like(tensor, 1e30))

    with pytest.raises(ConfigurationError, match="or too large for float16"):
        ResidentModel.load(large, device="cpu", dtype="float16")


def test_info_rejects_a_directory_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no checkpoint at"):
        commands.info(tmp_path)


def test_info_rejects_a_checkpoint_without_a_tokenizer(random_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, directory)
    (directory / "tokenizer.json").unlink()

    with pytest.raises(ConfigurationError, match="cannot be used"):
        commands.info(directory)


def test_info_prints_the_slots_for_the_current_settings(
    random_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 3 layers x 2 heads x 16 numbers x keys and values x 4 bytes
    row, weights = 1000 * 3 * 2 * 16 * 2 * 4, (random_checkpoint / "model.safetensors").stat().st_size
    free = sizing.GPU_OVERHEAD_BYTES + weights + int(7.5 * row / placement.CACHE_SHARE)
    monkeypatch.setattr(placement, "get_max_memory", lambda: {0: free, "cpu": 1})
    monkeypatch.setenv("PRELIM_CONTEXT_TOKENS", "1000")

    commands.info(random_checkpoint)

    shown = capsys.readouterr().out
    assert "7 of 1000 tokens" in shown
    assert " 0.0" not in shown


def test_memory_needed_is_just_enough_for_one_slot() -> None:
    size = sizing.CheckpointSize("m", "bfloat16", 10**10, 60 * 2**30, 10**6, 4096, None)
    gib = {gpus: float(size.memory_needed(1024, gpus).removesuffix(" GiB")) for gpus in (1, 2)}

    for gpus, needed in gib.items():
        assert size.slots_on(1024, gpus, int((needed + 0.1) * 2**30)).startswith("1 of")
        assert size.slots_on(1024, gpus, int((needed - 0.1) * 2**30)) == "does not fit"


def test_two_gpus_hold_fewer_slots_than_one_of_twice_the_memory() -> None:
    size = sizing.CheckpointSize("m", "bfloat16", 10**10, 60 * 2**30, 10**6, 4096, None)

    apart, together = size.slots_on(1024, 2, 48 * 2**30), size.slots_on(1024, 1, 96 * 2**30)

    assert int(apart.split()[0]) < int(together.split()[0])


def test_random_checkpoint_does_not_overwrite_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("another model")

    with pytest.raises(ConfigurationError, match="is not empty"):
        commands.random(tmp_path)

    assert (tmp_path / "model.safetensors").read_text() == "another model"


def test_random_checkpoint_may_be_written_to_an_empty_directory(tmp_path: Path) -> None:
    commands.random(tmp_path)

    assert (tmp_path / "model.safetensors").is_file()
    assert not (tmp_path / atomic.MARKER).exists()


#: Files are limited to one page, so that the weights cannot be written.
WITHOUT_DISK_SPACE = """
import resource, sys
from pathlib import Path
from db.errors import ConfigurationError
from worker.model.checkpoint import commands
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    commands.random(Path(sys.argv[1]))
except ConfigurationError as error:
    print("refused:", error)
"""


def test_random_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "models" / "random"

    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_DISK_SPACE, target], capture_output=True, text=True, check=True, timeout=120
    )

    assert f"refused: {target} cannot be written" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_random_checkpoint_depends_only_on_the_seed(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        commands.random(tmp_path / name, seed)

    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    assert len(one) < 4_000_000
