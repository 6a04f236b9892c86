"""Progress, memory and results of a conversion."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, InternVLForConditionalGeneration

from tests.integration.worker.model.checkpoint.published_checkpoint import PublishedCheckpoint
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.manifest import check_files, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.conftest import Parity


def test_progress_covers_writing_and_digests(parity: Parity, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    convert_checkpoint(parity.checkpoint, tmp_path / "converted", on_bytes=lambda *bytes_: calls.append(bytes_))

    done = [count for count, _ in calls]
    assert done == sorted(done)
    assert {total for _, total in calls} == {done[-1]}


MEASURED = """
import resource, sys
from pathlib import Path
from worker.model.checkpoint.convert import convert_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), trust_unknown=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def widen(published: PublishedCheckpoint, directory: Path) -> int:
    """Many layers in shards of 40 MB; returns a shard's size."""
    layers, width, intermediate = 24, 512, 2048
    config = published.config["llm_config"]
    config |= {"hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers, "head_dim": 64}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    published.config["use_llm_lora"] = 0
    tensors = {n: t for n, t in published.tensors.items() if n.startswith(("vision_model", "mlp1.0"))}
    tensors |= {"mlp1.1.weight": torch.zeros(width, 320), "mlp1.1.bias": torch.zeros(width)}
    tensors |= {"mlp1.3.weight": torch.zeros(width, width), "mlp1.3.bias": torch.zeros(width)}
    tensors |= {"language_model.lm_head.weight": torch.zeros(729, width)}
    tensors |= {"language_model.model.embed_tokens.weight": torch.zeros(729, width)}
    tensors |= {"language_model.model.norm.weight": torch.zeros(width)}
    published.tensors = tensors
    published.write(directory)
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{p}_proj": (width, width) for p in "qkvo"}
    shapes |= {"mlp.gate_proj": (intermediate, width), "mlp.up_proj": (intermediate, width)}
    shapes |= {
        "mlp.down_proj": (width, intermediate),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    for layer in range(layers):
        shard = {f"language_model.model.layers.{layer}.{n}.weight": torch.zeros(s) for n, s in shapes.items()}
        save_file(shard, directory / f"model-{layer}.safetensors")
    return (directory / "model-0.safetensors").stat().st_size


@pytest.mark.slow
def test_memory_stays_below_two_shards_and_the_largest_tensor(parity: Parity, tmp_path: Path) -> None:
    shard = widen(PublishedCheckpoint(parity.checkpoint), tmp_path / "published")
    total = sum(path.stat().st_size for path in (tmp_path / "published").glob("*.safetensors"))

    run = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "published", tmp_path / "converted"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(run.stdout) < 2 * shard + shard // 4 < total // 4


def test_plain_transformers_rejects_the_pixel_shuffle(converted: Path) -> None:
    script = "import sys; from transformers import AutoModelForImageTextToText as A; A.from_pretrained(sys.argv[1])"
    plain = subprocess.run([sys.executable, "-c", script, converted], capture_output=True, text=True, check=False)
    assert plain.returncode != 0
    assert "internvl_pixel_shuffle_v1" in plain.stderr

    forced = InternVLForConditionalGeneration.from_pretrained(converted)
    with pytest.raises(ValueError, match="select feature strategy"):
        forced.get_image_features(torch.zeros(1, 3, 448, 448))


def test_saved_and_loaded_model_keeps_the_pixel_shuffle(converted: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(converted)
    model.save_pretrained(tmp_path)

    again = AutoModelForImageTextToText.from_pretrained(tmp_path)

    pixels = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = [m.get_image_features(pixels).pooler_output for m in (model, again)]
    assert torch.equal(*features)


def test_record_describes_the_conversion(converted: Path, parity: Parity) -> None:
    record = json.loads((converted / "prelim.json").read_text())

    assert record["lora_tensors_merged"] == 4 * 7
    assert record["pixel_shuffle"] == "v1"
    assert len(record["converted_from"]) == len(list(parity.checkpoint.glob("*.safetensors"))) + 2
    check_files(converted, read_manifest(converted), everything=True)


def test_conversion_is_reproducible(parity: Parity, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_checkpoint(parity.checkpoint, tmp_path / name)

    assert read_manifest(tmp_path / "one").digest == read_manifest(tmp_path / "two").digest
