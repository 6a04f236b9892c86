"""InternVL with pixel shuffle v1, as MedDr was trained: transformers' own class computes v2 only.

The layout says so by its `model_type`, which transformers knows once this module is imported. A plain load cannot go
wrong unseen: the Auto classes refuse the unknown type, and InternVLForConditionalGeneration, which only warns of it,
breaks on the first image because STRATEGY is not one of its own and leaves it a token too many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLModel,
)

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "internvl_pixel_shuffle_v1"
STRATEGY = "default_pixel_shuffle_v1"


class InternVLV1Config(InternVLConfig):
    """An InternVL configuration whose features are shuffled as in v1."""

    model_type = MODEL_TYPE


class InternVLV1Model(InternVLModel):
    """InternVLModel, its grid of image tokens transposed."""

    config_class = InternVLV1Config

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """As InternVLModel's, under the strategy name that InternVLModel understands."""
        strategy = kwargs.pop("vision_feature_select_strategy", None) or STRATEGY
        known = "default" if strategy == STRATEGY else strategy
        return super().get_image_features(pixel_values, vision_feature_select_strategy=known, **kwargs)

    def pixel_shuffle(self, vision_features: torch.Tensor, scale_factor: float = 0.5) -> torch.Tensor:
        """[tiles, height, width, channels] -> a coarser grid; v1 leaves out v2's last swap (ps_version in InternVL)."""
        shuffled: torch.Tensor = super().pixel_shuffle(vision_features, scale_factor)
        return shuffled.transpose(1, 2).contiguous()


class InternVLV1ForConditionalGeneration(InternVLForConditionalGeneration):
    """InternVLForConditionalGeneration over InternVLV1Model."""

    config_class = InternVLV1Config

    def __init__(self, config: InternVLV1Config) -> None:
        super().__init__(config)
        self.model = InternVLV1Model(config)
        self.post_init()


AutoConfig.register(MODEL_TYPE, InternVLV1Config)
AutoModelForImageTextToText.register(InternVLV1Config, InternVLV1ForConditionalGeneration)
