"""The config.json of the published MedDr_0401 layout, checked and translated to transformers' configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import InternVLConfig

from db.errors import ConfigurationError
from worker.model.checkpoint.json_files import read_json_object
from worker.model.pixel_shuffle import STRATEGY, InternVLV1Config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: `model_type` of the published layout, and the architecture of its vision tower.
MODEL_TYPE, TOWER = "internvl_chat", "InternVisionModel"
#: The only conversation template supported; see worker.model.chat.
TEMPLATE = "Hermes-2"
#: wrap_llm_lora and wrap_backbone_lora set alpha to twice the rank (sunanhe/MedDr modeling_internvl_chat.py).
LORA_SCALE = 2.0
#: Fixed epsilon of transformers' query and key norms.
QK_NORM_EPSILON = 1e-6
#: Unscaled positions, as transformers 5 writes them.
PLAIN_ROPE = {"rope_type": "default"}

_TEXT_SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads"
_VISION_SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads patch_size"
_TEXT_FIELDS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "hidden_act max_position_embeddings initializer_range rms_norm_eps attention_bias mlp_bias "
    "bos_token_id eos_token_id pad_token_id tie_word_embeddings"
)
_VISION_FIELDS = (
    "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps patch_size "
    "num_channels initializer_range"
)


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """A published config.json."""

    values: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> PublishedConfig:
        """Read and check it; raises ConfigurationError if *directory* is not in the published layout."""
        published = cls(read_json_object(directory / "config.json"))
        published.check()
        return published

    def check(self) -> None:
        """Raise ConfigurationError for any value that the conversion would not reproduce."""
        text, vision = self._part("llm_config"), self._part("vision_config")
        self._expect("architectures", self.values.get("architectures"), ["InternVLChatModel"])
        self._expect("model_type", self.values.get("model_type") or MODEL_TYPE, MODEL_TYPE)
        self._expect("llm_config.architectures", text.get("architectures"), ["LlamaForCausalLM"])
        self._expect("llm_config.model_type", text.get("model_type") or "llama", "llama")
        # Versions of transformers compute scaled positions differently.
        self._expect("llm_config.rope_scaling", text.get("rope_scaling"), None)
        self._require("llm_config.rope_theta", self.rope_theta, "a number above 0", _is_positive)
        self._expect("vision_config.architectures", vision.get("architectures") or [TOWER], [TOWER])
        self._expect("template", self.values.get("template"), TEMPLATE)
        self._expect("pad2square", self.values.get("pad2square", False), False)
        self._expect("dynamic_image_size", self.values.get("dynamic_image_size", False), False)
        if self.pixel_shuffle not in ("v1", "v2"):
            self._expect("ps_version", self.pixel_shuffle, "v1")
        self._check_numbers(text, vision)
        if vision.get("qk_normalization"):
            self._expect("vision_config.layer_norm_eps", vision.get("layer_norm_eps", QK_NORM_EPSILON), QK_NORM_EPSILON)

    def _check_numbers(self, text: dict[str, Any], vision: dict[str, Any]) -> None:
        for part, values, names in (("llm_config", text, _TEXT_SIZES), ("vision_config", vision, _VISION_SIZES)):
            for name in names.split():
                self._require(f"{part}.{name}", values.get(name), "an integer above 0", _is_size)
        for name in ("num_key_value_heads", "head_dim", "max_position_embeddings"):
            self._require(f"llm_config.{name}", text.get(name) or 1, "an integer above 0", _is_size)
        tokens = {"eos_token_id": text.get("eos_token_id", 0)}
        tokens |= {name: text[name] for name in ("bos_token_id", "pad_token_id") if text.get(name) is not None}
        size = text["vocab_size"]
        for name, token in tokens.items():
            self._require(f"llm_config.{name}", token, f"a token below {size}", lambda token: _is_below(token, size))
        for name in ("qkv_bias", "qk_normalization"):
            self._require(f"vision_config.{name}", vision.get(name), "true or false", lambda v: isinstance(v, bool))
        size = self.values.get("force_image_size") or vision.get("image_size")
        self._require("force_image_size", size, "an integer above 0", _is_size)
        for name in ("use_llm_lora", "use_backbone_lora"):
            self._require(name, self.values.get(name) or 0, "a rank", lambda rank: type(rank) is int and rank >= 0)
        depth = vision["num_hidden_layers"]
        self._require(
            "select_layer",
            self.values.get("select_layer"),
            f"a layer from {-depth - 1} to {depth}",
            lambda layer: type(layer) is int and -depth - 1 <= layer <= depth,
        )
        grid = self.image_size // vision["patch_size"]
        self._require(
            "downsample_ratio",
            self.values.get("downsample_ratio"),
            f"a ratio that divides a grid of {grid} x {grid}",
            lambda ratio: _is_positive(ratio) and ratio <= 1 and float(grid * ratio).is_integer(),
        )

    @property
    def pixel_shuffle(self) -> str:
        """Version of the pixel shuffle; v1 if not given: MedDr's code predates the field and computes v1."""
        return str(self.values.get("ps_version", "v1"))

    @property
    def image_size(self) -> int:
        """Side of the square that images are resized to, in pixels."""
        return int(self.values.get("force_image_size") or self._part("vision_config")["image_size"])

    @property
    def rope_theta(self) -> Any:
        """Base of the rotary position embedding, None if not given; transformers 4 and 5 write it to different fields.

        Raises ConfigurationError if the two fields differ or the positions are scaled.
        """
        text = self._part("llm_config")
        given, parameters = text.get("rope_theta"), text.get("rope_parameters")
        if parameters is None:
            return given
        name = "llm_config.rope_parameters"
        self._require(name, parameters, "a JSON object", lambda found: isinstance(found, dict))
        rest = {key: value for key, value in parameters.items() if key != "rope_theta"}
        self._expect(name, rest or PLAIN_ROPE, PLAIN_ROPE)
        newer = parameters.get("rope_theta", given)
        if given is not None:
            self._expect(f"{name}.rope_theta", newer, given)
        return newer

    def num_layers(self, part: str) -> int:
        """Return the number of layers of `llm_config` or `vision_config`."""
        return int(self._part(part)["num_hidden_layers"])

    def lora_rank(self, part: str) -> int:
        """Return the LoRA rank of `llm` or `backbone`; 0 without LoRA."""
        return int(self.values.get(f"use_{part}_lora") or 0)

    def to_stock(self, image_token_id: int) -> Any:
        """Return the transformers configuration."""
        text, vision = self._part("llm_config"), self._part("vision_config")
        ratio = float(self.values["downsample_ratio"])
        grid = self.image_size // vision["patch_size"]
        shuffled_v1 = self.pixel_shuffle == "v1"
        kind = InternVLV1Config if shuffled_v1 else InternVLConfig
        return kind(
            text_config={"model_type": "llama", "rope_theta": self.rope_theta, **_pick(text, _TEXT_FIELDS)},
            vision_config=_pick(vision, _VISION_FIELDS)
            | {
                "image_size": self.image_size,
                "attention_bias": vision["qkv_bias"],
                "use_qk_norm": vision["qk_normalization"],
                # Older configurations lack the field: their code had RMSNorm only.
                "norm_type": vision.get("norm_type") or "rms_norm",
                # This omits transformers' final norm, which the original does not have.
                "use_mean_pooling": True,
            },
            downsample_ratio=ratio,
            image_seq_length=int(grid * grid * ratio * ratio),
            image_token_id=image_token_id,
            vision_feature_layer=self.values["select_layer"],
            vision_feature_select_strategy=STRATEGY if shuffled_v1 else "default",
            # transformers ties them by default, which would replace the output layer by the input embeddings.
            tie_word_embeddings=text.get("tie_word_embeddings", False),
        )

    def _part(self, name: str) -> dict[str, Any]:
        part = self.values.get(name)
        if not isinstance(part, dict):
            raise ConfigurationError(f"missing {name} in config.json: this is not the published MedDr layout")
        return part

    def _require(self, name: str, found: object, expected: str, is_valid: Callable[[Any], bool]) -> None:
        if found is None:
            raise ConfigurationError(f"missing {name} in config.json: this is not the published MedDr layout")
        if not is_valid(found):
            raise ConfigurationError(f"invalid {name} = {found!r} in config.json: expected {expected}")

    def _expect(self, name: str, found: object, expected: object) -> None:
        if found != expected:
            raise ConfigurationError(
                f"unsupported {name} = {found!r} in config.json: only {expected!r} can be converted"
            )


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_below(value: object, end: int) -> bool:
    return type(value) is int and 0 <= value < end


def _pick(values: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: values[name] for name in names.split() if values.get(name) is not None}
