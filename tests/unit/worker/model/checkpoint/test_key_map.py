from __future__ import annotations

import pytest

from db.errors import ConfigurationError
from worker.model.checkpoint.key_map import TensorSource, key_map


@pytest.mark.parametrize(
    ("published", "stock"),
    [
        ("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
        (
            "vision_model.embeddings.patch_embedding.bias",
            "model.vision_tower.embeddings.patch_embeddings.projection.bias",
        ),
        ("vision_model.encoder.layers.44.ls2", "model.vision_tower.encoder.layer.44.lambda_2"),
        (
            "vision_model.encoder.layers.0.attn.q_norm.weight",
            "model.vision_tower.encoder.layer.0.attention.q_norm.weight",
        ),
        ("vision_model.encoder.layers.0.norm2.weight", "model.vision_tower.encoder.layer.0.layernorm_after.weight"),
        ("mlp1.3.bias", "model.multi_modal_projector.linear_2.bias"),
        ("language_model.base_model.model.lm_head.weight", "lm_head.weight"),
        ("language_model.model.norm.weight", "model.language_model.norm.weight"),
    ],
)
def test_published_name_is_mapped_to_stock_name(published: str, stock: str) -> None:
    assert key_map([published]) == {stock: TensorSource(published)}


def test_joint_matrix_is_split_into_query_key_value() -> None:
    found = key_map(["vision_model.encoder.layers.0.attn.qkv.weight"])

    prefix = "model.vision_tower.encoder.layer.0.attention"
    assert {name: tensor.part for name, tensor in found.items()} == {
        f"{prefix}.q_proj.weight": 0,
        f"{prefix}.k_proj.weight": 1,
        f"{prefix}.v_proj.weight": 2,
    }


def test_lora_tensor_without_counterpart_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="lora_A without its counterpart"):
        key_map(["language_model.model.layers.0.mlp.up_proj.lora_A.default.weight"])
