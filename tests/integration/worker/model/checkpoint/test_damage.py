"""Damaged publications are refused in one sentence, before anything is left behind."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from deploy.cli import app
from tests.integration.worker.model.checkpoint.damage import (
    QUERY,
    TEXT,
    VISION,
    added_tokens,
    config,
    copy_publication,
    copy_weight,
    equal_scores,
    every,
    json_file,
    merge_adapters,
    misread,
    pieces,
    put,
    replace_bytes,
    rotate_pieces,
    round_to_eight_bits,
    swap_ids,
    swap_pieces,
    weight,
    weights,
    without,
    zero_second_half,
)
from tests.integration.worker.model.checkpoint.published_checkpoint import assert_rejected
from worker.model.checkpoint import commands
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.manifest import read_manifest
from worker.model.checkpoint.sentencepiece import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.checkpoint.damage import Damage
    from tests.integration.worker.model.conftest import Parity

HEAD = "language_model.base_model.model.lm_head"
EMBEDDINGS = "language_model.base_model.model.model.embed_tokens.weight"
LAST_NORM = "language_model.base_model.model.model.norm.weight"
BASE = f"{QUERY}.base_layer.weight"
ADAPTER = f"{QUERY}.lora_B.default.weight"
FIRST, SECOND, THIRD = (f"model-{number:05d}-of-00004.safetensors" for number in (1, 2, 3))


#: Further messages at the end of tokenizer.model, which replace values of the earlier ones (sentencepiece_model.proto).
NO_ESCAPED_SPACES, SPACES_BEHIND, NO_BYTES = b"\x1a\x02\x28\x00", b"\x12\x03\xc0\x01\x01", b"\x12\x03\x98\x02\x00"


def append(name: str, data: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes() + data)


def double_value(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"select_layer"', '"select_layer": -2, "select_layer"'))


#: Damage to the weights, found when they are read.
WEIGHTS: dict[str, tuple[Damage, str]] = {
    "one adapter untrained": (weight(ADAPTER, torch.zeros_like), "lora_B.* is zero: its adapter was never trained"),
    "all adapters untrained": (every("lora_B", torch.zeros_like), "lora_B.* is zero: its adapter was never trained"),
    "adapter copied": (copy_weight(ADAPTER.replace(".1.", ".2."), ADAPTER), "lora_B.* are equal"),
    "matrix zero": (weight("mlp1.1.weight", torch.zeros_like), "mlp1.1.weight is zero"),
    "matrix constant": (weight("mlp1.1.weight", lambda t: torch.full_like(t, 0.02)), "has the same value everywhere"),
    "bias constant": (weight("mlp1.1.bias", lambda t: torch.full_like(t, 0.5)), "mlp1.1.bias has the same value"),
    "matrix half zero": (weight(BASE, zero_second_half), "is zero in part, as after a truncated"),
    "embeddings half zero": (weight(EMBEDDINGS, zero_second_half), "embed_tokens.weight is zero in part"),
    "rows zero": (weight(BASE, lambda t: t * (torch.arange(len(t)) > 1)[:, None]), "has rows of zeros"),
    "columns zero": (weight(BASE, lambda t: t * (torch.arange(len(t)) > 1)), "has columns or blocks of zeros"),
    "rows repeated": (weight(BASE, lambda t: t[:1].expand_as(t)), "repeats rows"),
    "embeddings moved to the output": (
        weights(lambda found: found.update({f"{HEAD}.weight": found[EMBEDDINGS].roll(1, 0)})),
        "lm_head.weight repeats rows of .*embed_tokens",
    ),
    "adapters merged before": (weights(merge_adapters), "the weights contain 1.0 times their adapters"),
    "rounded to eight bits": (weight(BASE, round_to_eight_bits), "has values of few digits"),
    "embeddings repeated": (weight(EMBEDDINGS, lambda t: t[torch.arange(len(t)) // 2 * 2]), "repeats rows"),
    "rows repeated at a distance": (weight("mlp1.3.weight", lambda t: torch.cat([t[:48], t[:48]])), "repeats rows"),
    "norm inverted": (weight(f"{TEXT}.1.input_layernorm.weight", torch.neg), "is negative on average"),
    "one norm enlarged": (weight(f"{TEXT}.1.input_layernorm.weight", lambda t: t * 2000), "2e.03 times as large"),
    "norm zero": (weight(f"{VISION}.0.attn.q_norm.weight", torch.zeros_like), "would suppress what it scales"),
    "scale zero": (weight(f"{VISION}.0.ls1", torch.zeros_like), "ls1 is zero in part"),
    "positions zero": (weight("vision_model.embeddings.position_embedding", torch.zeros_like), "position.* is zero"),
    "bfloat16 read as float16": (every("", misread(torch.float16, torch.bfloat16)), "another number format"),
    "float16 read as bfloat16": (weight(BASE, misread(torch.bfloat16, torch.float16)), "another number format"),
    "values not finite": (weight("mlp1.1.bias", lambda t: t + torch.inf), "values that are not finite"),
    "values huge": (weight("mlp1.1.bias", lambda t: t + 1e6), "has values above 10000"),
    "values tiny": (weight("mlp1.1.weight", lambda t: t * 1e-30), "has values below 1e-07 only"),
    "one matrix enlarged": (weight(BASE, lambda t: t * 1000), "1e.03 times as large as in the other layers"),
    "one matrix reduced": (weight(BASE, lambda t: t / 1000), "0.001 times as large as in the other layers"),
    "projector enlarged": (weight("mlp1.1.weight", lambda t: t * 1000), "mlp1.1.weight has a root mean square of 90:"),
    "projector reduced": (weight("mlp1.3.weight", lambda t: t / 1000), "mlp1.3.weight has a root mean square"),
    "projector's bias enlarged": (weight("mlp1.1.bias", lambda t: t * 1000), "mlp1.1.bias has a root mean square"),
    "projector's norm inverted": (weight("mlp1.0.weight", torch.neg), "mlp1.0.weight is negative on average"),
    "output layer enlarged": (weight(f"{HEAD}.weight", lambda t: t * 1000), "lm_head.weight has a root mean square"),
    "embeddings enlarged": (weight(EMBEDDINGS, lambda t: t * 500), "embed_tokens.weight has a root mean square"),
    "patches enlarged": (every("patch_embedding.weight", lambda t: t * 500), "patch_embedding.* a root mean square"),
    "all scales enlarged": (every(".ls1", lambda t: t * 1000), "ls1 has a root mean square"),
    "all scales inverted": (every(".ls1", torch.neg), "ls1 is negative on average"),
    "last norm enlarged": (weight(LAST_NORM, lambda t: t * 5000), "norm.weight has a root mean square"),
    "all adapters enlarged": (every("lora_B", lambda t: t * 1000), "lora_B.* has a root mean square"),
    "all norms of queries reduced": (every(".q_norm", lambda t: t * 1e-3), "q_norm.weight has a root mean square"),
    "signs only": (weight("mlp1.1.weight", torch.sign), "has values of few digits"),
    "layer copied": (
        copy_weight(f"{TEXT}.2.mlp.up_proj.base_layer.weight", f"{TEXT}.1.mlp.up_proj.base_layer.weight"),
        "are equal",
    ),
    "output layer tied": (
        copy_weight(f"{HEAD}.weight", EMBEDDINGS),
        "lm_head.weight and .*embed_tokens.weight are equal",
    ),
    "end of a shard zero": (replace_bytes(THIRD, -400, bytes(400)), "blocks of zeros"),
    "page of a shard zero": (replace_bytes(SECOND, 300_000, bytes(4096)), "is zero in part"),
    "bit of an exponent": (replace_bytes(SECOND, 200_001, b"\x7e"), "has values above 10000|not finite"),
}

#: Damage found before any weight is read.
EARLY: dict[str, tuple[Damage, str]] = {
    "adapter of the output layer": (
        put(**{f"{HEAD}.lora_A.default.weight": (8, 96), f"{HEAD}.lora_B.default.weight": (729, 8)}),
        "the original's LoRA never wraps",
    ),
    "adapter of the tower": (
        put(
            **{
                f"{VISION}.0.attn.proj.lora_A.default.weight": (8, 80),
                f"{VISION}.0.attn.proj.lora_B.default.weight": (80, 8),
            }
        ),
        "use_backbone_lora = 0",
    ),
    "adapter cut": (every("lora_A", lambda t: t[:4]), "do not fit"),
    "weights as integers": (weight(BASE, lambda t: t.to(torch.int8)), "unsupported dtype I8"),
    "rope base": (config(llm_config__rope_theta=1e4), "rope_theta = 10000.0 in config.json differs from MedDr_0401"),
    "rope base in the newer field": (
        config(llm_config__rope_theta=None, llm_config__rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
        "rope_theta = 1000000.0",
    ),
    "norm epsilon": (config(llm_config__rms_norm_eps=1e-6), "rms_norm_eps = 1e-06"),
    "norm epsilon missing": (without("config.json", "llm_config__rms_norm_eps"), "rms_norm_eps = None"),
    "norm epsilon not a number": (config(llm_config__rms_norm_eps=float("nan")), "rms_norm_eps = nan"),
    "activation": (config(llm_config__hidden_act="gelu"), "hidden_act = 'gelu'"),
    "activation of the tower": (config(vision_config__hidden_act="gelu_new"), "hidden_act = 'gelu_new'"),
    "pixel shuffle": (config(ps_version="v2"), "ps_version = 'v2'"),
    "layer of the tower": (config(select_layer=-2), "select_layer = -2"),
    "end of turn": (config(llm_config__eos_token_id=2), "eos_token_id = 2"),
    "padding token": (config(llm_config__pad_token_id=2), "pad_token_id = 2"),
    "first token": (config(llm_config__bos_token_id=2), "bos_token_id = 2"),
    "context": (config(llm_config__max_position_embeddings=2048), "max_position_embeddings = 2048"),
    "heads of keys": (config(llm_config__num_key_value_heads=6), "k_proj.* has the shape"),
    "image size": (config(force_image_size=224), "position_embedding has the shape"),
    "name twice in config.json": (double_value, "'select_layer' stands twice"),
    "pieces exchanged": (swap_pieces(300, 400), "the scores of tokenizer.model are not in order"),
    "texts of pieces exchanged": (swap_pieces(300, 400, scores=False), "is not joined of two earlier pieces"),
    "characters exchanged": (swap_pieces(665, 666), "the scores of tokenizer.model are not in order"),
    "all texts moved": (pieces(rotate_pieces), "is not joined of two earlier pieces"),
    "bytes exchanged": (swap_pieces(50, 51), "the byte pieces of tokenizer.model are not in order"),
    "piece removed": (pieces(lambda found: found.pop(300)), "cannot have the id 720"),
    "piece twice": (pieces(lambda found: found.__setitem__(300, found[301])), "cannot have the id 720"),
    "scores equal": (pieces(equal_scores), "the scores of tokenizer.model are not in order"),
    "score not a number": (pieces(lambda found: found.__setitem__(300, (found[300][0], float("nan"), 1))), "scores"),
    "spaces not escaped": (append("tokenizer.model", NO_ESCAPED_SPACES), "leaves spaces unchanged"),
    "spaces behind words": (append("tokenizer.model", SPACES_BEHIND), "leaves spaces unchanged"),
    "bytes not used": (append("tokenizer.model", NO_BYTES), "has pieces for bytes and does not use them"),
    "begin of a turn is no token": (
        pieces(lambda found: found.__setitem__(6, (*found[6][:2], Kind.CONTROL))),
        "are pieces of different kinds",
    ),
    "special tokens split": (json_file("tokenizer_config.json", split_special_tokens=True), "split_special_tokens"),
    "context token is not special": (
        json_file("tokenizer_config.json", added_tokens_decoder__722__special=False),
        "<IMG_CONTEXT> is no special token",
    ),
    "quantized weights stated": (
        config(llm_config__quantization_config={"quant_method": "awq"}),
        "llm_config.quantization_config in config.json",
    ),
    "weights of another format": (
        lambda d: (d / "pytorch_model.bin").write_bytes(b"x"),
        "pytorch_model.bin is not part of the publication",
    ),
    "image tokens exchanged": (added_tokens(swap_ids("<img>", "</img>")), "not in the order in which InternVL adds"),
    "context token exchanged": (added_tokens(swap_ids("<IMG_CONTEXT>", "<quad>")), "not in the order in which"),
    "lists of tokens differ": (
        json_file("added_tokens.json", **{"<img>": 721, "</img>": 720}),
        "has the id 7.. in added",
    ),
    "added token missing": (added_tokens(lambda ids: ids.pop("</box>")), "728 tokens, but config.json has a vocab"),
    "added token strips": (
        json_file("tokenizer_config.json", added_tokens_decoder__720__lstrip=True),
        "strips the text",
    ),
    "end token renamed": (json_file("tokenizer_config.json", eos_token="<|endoftext|>"), "eos_token is"),
    "first token added": (json_file("tokenizer_config.json", add_bos_token=True), "add_bos_token = True"),
    "spaces cleaned up": (json_file("tokenizer_config.json", clean_up_tokenization_spaces=True), "clean_up_token"),
    "tokenizer samples": (json_file("tokenizer_config.json", sp_model_kwargs={"alpha": 0.1}), "sp_model_kwargs"),
    "tokenizer of another class": (
        json_file("tokenizer_config.json", tokenizer_class="GPT2Tokenizer"),
        "tokenizer_class",
    ),
    "special tokens differ": (json_file("special_tokens_map.json", eos_token="<unk>"), "in special_tokens_map.json"),
    "generation stops elsewhere": (json_file("generation_config.json", eos_token_id=2), "in generation_config.json"),
    "generation samples": (json_file("generation_config.json", do_sample=True), "do_sample in generation_config.json"),
    "statistics of CLIP": (json_file("preprocessor_config.json", image_mean=[0.481, 0.458, 0.408]), "image_mean"),
    "deviation of SigLIP": (json_file("preprocessor_config.json", image_std=[0.5, 0.5, 0.5]), "image_std"),
    "smaller images": (json_file("preprocessor_config.json", size=224), "size = 224 in preprocessor_config.json"),
    "tiles": (json_file("preprocessor_config.json", crop_to_patches=True), "crop_to_patches = True"),
    "scale of adapters": (
        json_file("adapter_config.json", lora_alpha=64),
        "adapter_config.json is not part of the pub",
    ),
    "shard is a web page": (lambda d: (d / FIRST).write_bytes(b"<!DOCTYPE html><html></html>"), "truncated or damaged"),
    "shard is empty": (lambda d: (d / FIRST).write_bytes(b""), "truncated or damaged"),
    "shards exchanged": (lambda d: shutil.copy(d / SECOND, d / FIRST), "is in both"),
    "shard twice": (lambda d: shutil.copy(d / FIRST, d / "model-00005-of-00005.safetensors"), "unexpected shard"),
}


#: Weights must be read and written before a problem is found; the fast suite has one damage for each check.
FAST = (
    "one adapter untrained",
    "matrix constant",
    "rows repeated",
    "scale zero",
    "float16 read as bfloat16",
    "one matrix enlarged",
    "output layer tied",
    "end of a shard zero",
)


@pytest.mark.parametrize(
    "name", [*EARLY, *FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in WEIGHTS if name not in FAST)]
)
def test_damaged_publication_is_refused(parity: Parity, tmp_path: Path, name: str) -> None:
    damage, problem = (WEIGHTS | EARLY)[name]
    source = copy_publication(parity.checkpoint, tmp_path / "published")
    damage(source)

    assert_rejected(source, tmp_path / "converted", problem)


def test_skipped_checks_are_listed_and_recorded(
    parity: Parity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = copy_publication(parity.checkpoint, tmp_path / "published")
    config(llm_config__rope_theta=1e4)(source)
    weight(BASE, zero_second_half)(source)

    commands.convert(source, tmp_path / "converted", "bfloat16", trust_unknown=True)

    shown = " ".join(capsys.readouterr().out.split())
    assert "skipped: publication: llm_config.rope_theta = 10000.0" in shown
    assert "skipped: zeros: " in shown
    assert read_manifest(tmp_path / "converted").values["skipped"] == ["publication", "zeros"]


def test_refusal_is_one_line_and_exit_status_2(
    parity: Parity, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copy_publication(parity.checkpoint, tmp_path / "published")
    config(llm_config__rope_theta=1e4)(source)

    monkeypatch.setattr(sys, "argv", ["prelim", "checkpoint", "convert", str(source), str(tmp_path / "converted")])
    monkeypatch.setattr(os, "umask", lambda mask: mask)
    with pytest.raises(SystemExit) as ended:
        app.main()

    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_parts_that_no_page_states_are_named(parity: Parity, tmp_path: Path) -> None:
    source = copy_publication(parity.checkpoint, tmp_path / "published")
    config(image_fold=2, llm_config__logits_scaling=2.0)(source)

    converted = convert_checkpoint(source, tmp_path / "converted")

    assert converted.skipped == []
    assert [sentence.split(",")[0] for sentence in converted.unstated] == [
        "16 values of config.json",
        "the ids of the added tokens are compared between the files only",
        "fields of config.json that were not compared: image_fold",
    ]
    assert converted.unstated[-1].endswith(", llm_config.logits_scaling")
    assert set(converted.unknown) == set(read_manifest(tmp_path / "converted").values["converted_from"])
