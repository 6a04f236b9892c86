"""InternVL with pixel shuffle v1, as MedDr was trained; transformers' own class computes v2 only.

The layout is marked by its `model_type`, which transformers accepts once this module is imported. A load without it
cannot silently compute v2: the Auto classes reject the unknown type, and InternVLForConditionalGeneration, which only
warns, fails on the first image because it does not support STRATEGY.
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
#: Model types of all InternVL layouts.
INTERNVL = ("internvl", MODEL_TYPE)


class InternVLV1Config(InternVLConfig):
    """InternVLConfig for pixel shuffle v1."""

    model_type = MODEL_TYPE


class InternVLV1Model(InternVLModel):
    """InternVLModel with the grid of image tokens transposed."""

    config_class = InternVLV1Config

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Call InternVLModel's method with the strategy name that it supports."""
        strategy = kwargs.pop("vision_feature_select_strategy", None) or STRATEGY
        known = "default" if strategy == STRATEGY else strategy
        return super().get_image_features(pixel_values, vision_feature_select_strategy=known, **kwargs)

    def pixel_shuffle(self, vision_features: torch.Tensor, scale_factor: float = 0.5) -> torch.Tensor:
        """Fold [tiles, height, width, channels] to a coarser grid; v1 lacks v2's final transpose (ps_version)."""
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
