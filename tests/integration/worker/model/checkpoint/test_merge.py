"""Weights of the converted checkpoint: LoRA merge, names, dimensions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch

from tests.integration.worker.model.checkpoint.published_checkpoint import QUERY, PublishedCheckpoint, weights
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.checkpoint.published_checkpoint import Change
    from tests.integration.worker.model.conftest import Parity


def test_lora_is_merged_in_float32_and_rounded_once(parity: Parity, tmp_path: Path) -> None:
    tensors = PublishedCheckpoint(parity.checkpoint).tensors
    down, up = (tensors[f"{QUERY}.lora_{half}.default.weight"].float() for half in "AB")
    merged = tensors[f"{QUERY}.base_layer.weight"].float() + 2.0 * (up @ down)

    convert_checkpoint(parity.checkpoint, tmp_path / "converted")

    found = weights(tmp_path / "converted")["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, merged.to(torch.bfloat16))


def without_adapter_name(published: PublishedCheckpoint) -> None:
    published.rename(lambda name: name.replace(".default.weight", ".weight"))


def without_base_layer(published: PublishedCheckpoint) -> None:
    published.rename(lambda name: name.replace(".base_layer.", "."))


def without_wrapper(published: PublishedCheckpoint) -> None:
    published.rename(lambda name: name.replace("base_model.model.", ""))


@pytest.mark.parametrize("change", [without_adapter_name, without_base_layer, without_wrapper])
def test_all_peft_naming_schemes_give_the_same_weights(
    parity: Parity, converted: Path, tmp_path: Path, change: Change
) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    change(published)

    convert_checkpoint(published.write(tmp_path / "published"), tmp_path / "converted", dtype="float32")

    found, expected = weights(tmp_path / "converted"), weights(converted)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def merge_by_hand(published: PublishedCheckpoint) -> None:
    """What a published without updates would hold."""
    tensors = {name: tensor.float() for name, tensor in published.tensors.items()}
    for name in [name for name in tensors if ".lora_A." in name]:
        down, up = tensors.pop(name), tensors.pop(name.replace("lora_A", "lora_B"))
        tensors[name.replace("lora_A.default", "base_layer")] += 2.0 * (up @ down)
    published.tensors = tensors
    published.rename(lambda name: name.replace(".base_layer.", ".").replace("base_model.model.", ""))
    published.config["use_llm_lora"] = 0


def test_checkpoint_without_lora_is_converted(parity: Parity, converted: Path, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    merge_by_hand(published)

    convert_checkpoint(published.write(tmp_path / "published"), tmp_path / "converted", dtype="float32")

    expected = weights(converted)
    assert all(torch.allclose(t, expected[n], atol=1e-6) for n, t in weights(tmp_path / "converted").items())


def narrow(published: PublishedCheckpoint) -> None:
    """Another rank, another depth of both towers and a smaller image."""
    tensors = published.tensors
    gone = re.compile(r"vision_model\.encoder\.layers\.2\.|\.model\.layers\.3\.")
    published.tensors = {name: tensor for name, tensor in tensors.items() if not gone.search(name)}
    for name, tensor in published.tensors.items():
        if ".lora_A." in name:
            published.tensors[name] = tensor[:4].contiguous()
        if ".lora_B." in name:
            published.tensors[name] = tensor[:, :4].contiguous()
    position = "vision_model.embeddings.position_embedding"
    published.tensors[position] = tensors[position][:, : 1 + 16 * 16].contiguous()
    published.config |= {"use_llm_lora": 4, "force_image_size": 224}
    published.config["vision_config"] |= {"num_hidden_layers": 2, "image_size": 224}
    published.config["llm_config"] |= {"num_hidden_layers": 3}


def test_dimensions_are_read_from_the_configuration(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    narrow(published)
    convert_checkpoint(published.write(tmp_path / "published"), tmp_path / "converted")

    model = ResidentModel.load(tmp_path / "converted", device="cpu", context_tokens=256)
    prompt = model.checkpoint.prompts.build("", [parity.image(parity.cases[0])])
    model.close()

    assert prompt.pixel_values is not None
    assert prompt.pixel_values.shape == (1, 3, 224, 224)
    assert prompt.input_ids.tolist().count(model.checkpoint.model.config.image_token_id) == 8 * 8


def test_lora_of_the_vision_tower_is_merged_before_the_split(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    linear = re.compile(r"(vision_model)(\.encoder\.layers\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.fc[12]))\.weight")
    generator = torch.Generator().manual_seed(0)
    tensors = published.tensors
    for name in [name for name in tensors if linear.fullmatch(name)]:
        out, into = tensors[name].shape
        wrapped = linear.sub(r"\1.base_model.model\2", name)
        tensors[f"{wrapped}.base_layer.weight"] = tensors.pop(name)
        tensors[f"{wrapped}.lora_A.default.weight"] = torch.randn(4, into, generator=generator)
        tensors[f"{wrapped}.lora_B.default.weight"] = torch.randn(out, 4, generator=generator)
    published.config["use_backbone_lora"] = 4
    layer = "vision_model.base_model.model.encoder.layers.1.attn.qkv"
    down, up = (tensors[f"{layer}.lora_{half}.default.weight"] for half in "AB")
    merged = tensors[f"{layer}.base_layer.weight"].float() + 2.0 * (up @ down)

    convert_checkpoint(
        published.write(tmp_path / "published"), tmp_path / "converted", dtype="float32", trust_unknown=True
    )

    found = weights(tmp_path / "converted")
    parts = [found[f"model.vision_tower.encoder.layer.1.attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.allclose(torch.cat(parts), merged, atol=1e-6)
