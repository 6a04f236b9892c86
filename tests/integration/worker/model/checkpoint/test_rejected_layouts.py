"""Tensors and config.json that differ from the published layout are rejected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig

from tests.integration.worker.model.checkpoint.published_checkpoint import QUERY, PublishedCheckpoint, assert_rejected
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.published import PublishedConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.checkpoint.published_checkpoint import Change
    from tests.integration.worker.model.conftest import Parity


def drop(name: str) -> Change:
    return lambda published: published.tensors.pop(name)


def add(name: str) -> Change:
    return lambda published: published.tensors.update({name: torch.zeros(2)})


def transpose(name: str) -> Change:
    return lambda published: published.tensors.update({name: published.tensors[name].T.contiguous()})


def configure(**values: Any) -> Change:
    return lambda published: published.config.update(values)


def configure_text(**values: Any) -> Change:
    return lambda published: published.config["llm_config"].update(values)


def newer_rope(**values: Any) -> Change:
    """The base of the positions' angles where transformers 5 writes it."""
    parameters = {"rope_theta": 5e6, "rope_type": "default", **values}
    return lambda published: published.config["llm_config"].update(rope_theta=None, rope_parameters=parameters)


def configure_vision(**values: Any) -> Change:
    return lambda published: published.config["vision_config"].update(values)


def put(name: str, tensor: torch.Tensor) -> Change:
    return lambda published: published.tensors.update({name: tensor})


def forget(key: str) -> Change:
    return lambda published: published.config.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            add("language_model.base_model.model.model.layers.0.surprise"),
            "surprise of the checkpoint is not part of the MedDr layout",
        ),
        (drop("vision_model.encoder.layers.1.ls1"), "encoder.layer.1.lambda_1 is missing"),
        (drop(f"{QUERY}.base_layer.weight"), "have no weight"),
        (drop(f"{QUERY}.lora_A.default.weight"), "lora_B without its counterpart"),
        (drop("language_model.base_model.model.lm_head.weight"), "lm_head.weight is missing"),
        (transpose("mlp1.1.weight"), r"mlp1.1.weight has the shape \(320, 96\), but config.json requires \(96, 320\)"),
        (transpose(f"{QUERY}.lora_B.default.weight"), "do not fit"),
        (
            configure(use_llm_lora=16),
            "use_llm_lora = 16 in config.json, but the checkpoint's layers have LoRA tensors of rank 8",
        ),
        (
            configure(use_llm_lora=0),
            "use_llm_lora = 0 in config.json, but the checkpoint's layers have LoRA tensors of rank 8",
        ),
        (configure(architectures=["LlavaForConditionalGeneration"]), "architectures = .*InternVLChatModel"),
        (configure_text(architectures=["InternLM2ForCausalLM"]), "only .*LlamaForCausalLM"),
        (configure(model_type="llava"), "model_type = 'llava'"),
        (configure_text(model_type="qwen2"), "llm_config.model_type = 'qwen2'"),
        (configure_text(rope_scaling={"type": "linear", "factor": 2.0}), "llm_config.rope_scaling = .*only None"),
        (configure_text(eos_token_id=99_999), "eos_token_id = 99999 in config.json: expected a token below 729"),
        (configure_vision(architectures=["CLIPVisionModel"]), "vision_config.architectures"),
        (configure(template="internlm2-chat"), "template = 'internlm2-chat'"),
        (configure(dynamic_image_size=True), "dynamic_image_size"),
        (configure(ps_version="v3"), "ps_version"),
        (configure_text(vocab_size=700), "729 tokens, but the model's vocabulary has 700"),
        (
            configure_text(num_hidden_layers=5),
            "llm_config.num_hidden_layers = 5 in config.json, but the checkpoint has 4 layers",
        ),
        (
            configure_text(num_hidden_layers=10**9),
            "llm_config.num_hidden_layers = 10+ in config.json, but the checkpoint has 4",
        ),
        (
            configure_vision(num_hidden_layers=10**9),
            "vision_config.num_hidden_layers = 10+ in config.json, but the checkpoint has 3",
        ),
        (configure_text(rope_theta=None), "missing llm_config.rope_theta"),
        (configure_text(rope_theta=0), "rope_theta = 0 in config.json: expected a number above 0"),
        (configure_text(rope_theta=-5e6), "rope_theta = -5000000.0 in config.json: expected a number above 0"),
        (configure_text(rope_theta=math.inf), "rope_theta = inf in config.json: expected a number above 0"),
        (configure_text(rope_theta="5e6"), "rope_theta = '5e6' in config.json: expected a number above 0"),
        (newer_rope(rope_theta=None), "missing llm_config.rope_theta"),
        (newer_rope(rope_theta=0), "rope_theta = 0 in config.json: expected a number above 0"),
        (newer_rope(rope_type="linear", factor=2.0), "llm_config.rope_parameters = .*linear.*: only"),
        (
            configure_text(rope_parameters={"rope_theta": 1e4}),
            "rope_parameters.rope_theta = 10000.0 in config.json: only 50+",
        ),
        (configure_text(rope_parameters=[5e6]), "rope_parameters = .*: expected a JSON object"),
        (configure_text(pad_token_id=-7), "llm_config.pad_token_id = -7 in config.json: expected a token below 729"),
        (configure_text(bos_token_id=729), "llm_config.bos_token_id = 729 in config.json: expected a token below 729"),
        (
            configure_text(hidden_size="wide"),
            "llm_config.hidden_size = 'wide' in config.json: expected an integer above 0",
        ),
        (configure_text(num_attention_heads=0), "llm_config.num_attention_heads = 0"),
        (configure_text(num_hidden_layers=-1), "llm_config.num_hidden_layers = -1"),
        (configure_text(hidden_act="zork"), "no model can be built from config.json: .*zork"),
        (configure_text(rope_scaling="linear"), "llm_config.rope_scaling = 'linear'"),
        (configure_vision(patch_size=0), "vision_config.patch_size = 0"),
        (configure_vision(qk_normalization=None), "missing vision_config.qk_normalization"),
        (configure(force_image_size="large"), "force_image_size = 'large'"),
        (configure(use_llm_lora="x"), "use_llm_lora = 'x' in config.json: expected a rank"),
        (configure(select_layer=99), "select_layer = 99 in config.json: expected a layer from -4 to 3"),
        (configure(downsample_ratio=0.3), "downsample_ratio = 0.3"),
        (put("vision_model.encoder.layers.0.attn.qkv.weight", torch.zeros(145, 48)), "cannot be split"),
        (put("vision_model.encoder.layers.0.attn.qkv.weight", torch.tensor(1.0)), "cannot be split"),
        (put(f"{QUERY}.lora_A.default.weight", torch.tensor(1.0)), "do not fit"),
        (put("mlp1.0.bias", torch.ones(320, dtype=torch.int64)), "unsupported dtype I64"),
        (put("mlp1.0.bias", torch.ones(320).to(torch.float8_e4m3fn)), "unsupported dtype F8_E4M3"),
        (put(f"{QUERY}.weight", torch.zeros(2, 2)), "both map to .*q_proj.weight: expected one"),
        (put(f"{QUERY}.lora_A.weight", torch.zeros(2, 2)), "both map to .*q_proj.lora_A.weight: expected one"),
        (put("language_model.lm_head.weight", torch.zeros(2, 2)), "both map to .*lm_head.weight: expected one"),
        (put("lm_head.weight", torch.zeros(2, 2)), "both map to lm_head.weight: expected one"),
        (forget("vision_config"), "missing vision_config"),
        (forget("downsample_ratio"), "missing downsample_ratio"),
    ],
)
def test_deviation_from_the_published_layout_is_rejected(
    parity: Parity, tmp_path: Path, change: Change, message: str
) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    change(published)

    assert_rejected(published.write(tmp_path / "published"), tmp_path / "converted", message)


@pytest.mark.parametrize(
    "change", [newer_rope(), configure_text(rope_parameters={"rope_theta": 5e6, "rope_type": "default"})]
)
def test_rope_base_is_read_from_the_field_of_transformers_4_or_5(
    parity: Parity, tmp_path: Path, change: Change
) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    change(published)

    convert_checkpoint(published.write(tmp_path / "published"), tmp_path / "converted")

    text = AutoConfig.from_pretrained(tmp_path / "converted").text_config
    assert text.rope_parameters == {"rope_theta": 5e6, "rope_type": "default"}


def test_downsample_ratio_may_be_an_integer(parity: Parity) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    published.config["downsample_ratio"] = 1
    config = PublishedConfig(published.config)
    config.check()

    ratio = config.to_stock(0).downsample_ratio

    assert (ratio, type(ratio)) == (1.0, float)


def test_layer_without_lora_among_others_is_rejected(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    for half in "AB":
        published.tensors.pop(f"{QUERY}.lora_{half}.default.weight")

    assert_rejected(published.write(tmp_path / "published"), tmp_path / "converted", "of rank 0 and 8")


def test_missing_weights_are_reported_before_their_lora(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    for name in [name for name in published.tensors if "layers.3.mlp" in name]:
        del published.tensors[name]

    assert_rejected(published.write(tmp_path / "published"), tmp_path / "converted", "layers.3.mlp.*is missing")
