"""The published MedDr_0401 layout: what its config.json says, in transformers' terms."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import InternVLConfig

from db.errors import ConfigurationError
from worker.model.pixel_shuffle import STRATEGY, InternVLV1Config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What the publication calls itself and its vision tower.
MODEL_TYPE, TOWER = "internvl_chat", "InternVisionModel"
#: The only conversation template whose words are known here; see worker.model.chat.
TEMPLATE = "Hermes-2"
#: wrap_llm_lora and wrap_backbone_lora set alpha to twice the rank (sunanhe/MedDr modeling_internvl_chat.py).
LORA_SCALE = 2.0
#: transformers' query and key norms have this epsilon built in.
QK_NORM_EPSILON = 1e-6
#: Positions as they are, in the words of transformers 5.
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
class Published:
    """A published config.json."""

    values: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Published:
        """Read it; ConfigurationError where *directory* is not in the published layout."""
        try:
            values = json.loads((directory / "config.json").read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"{directory}/config.json cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"{directory}/config.json cannot be used: it is no table of names and values")
        published = cls(values)
        published.check()
        return published

    def check(self) -> None:
        """Refuse what would be converted into something else than was trained."""
        text, vision = self._part("llm_config"), self._part("vision_config")
        self._expect("architectures", self.values.get("architectures"), ["InternVLChatModel"])
        self._expect("model_type", self.values.get("model_type") or MODEL_TYPE, MODEL_TYPE)
        self._expect("llm_config.architectures", text.get("architectures"), ["LlamaForCausalLM"])
        self._expect("llm_config.model_type", text.get("model_type") or "llama", "llama")
        # Stretched positions are computed otherwise by every version of transformers.
        self._expect("llm_config.rope_scaling", text.get("rope_scaling"), None)
        self._demand("llm_config.rope_theta", self.rope_theta, "a number above 0", _is_positive)
        self._expect("vision_config.architectures", vision.get("architectures") or [TOWER], [TOWER])
        self._expect("template", self.values.get("template"), TEMPLATE)
        self._expect("pad2square", self.values.get("pad2square", False), False)
        self._expect("dynamic_image_size", self.values.get("dynamic_image_size", False), False)
        if self.shuffle not in ("v1", "v2"):
            self._expect("ps_version", self.shuffle, "v1")
        self._check_numbers(text, vision)
        if vision.get("qk_normalization"):
            self._expect("vision_config.layer_norm_eps", vision.get("layer_norm_eps", QK_NORM_EPSILON), QK_NORM_EPSILON)

    def _check_numbers(self, text: dict[str, Any], vision: dict[str, Any]) -> None:
        for part, values, names in (("llm_config", text, _TEXT_SIZES), ("vision_config", vision, _VISION_SIZES)):
            for name in names.split():
                self._demand(f"{part}.{name}", values.get(name), "a whole number above 0", _is_size)
        for name in ("num_key_value_heads", "head_dim", "max_position_embeddings"):
            self._demand(f"llm_config.{name}", text.get(name) or 1, "a whole number above 0", _is_size)
        tokens = {"eos_token_id": text.get("eos_token_id", 0)}
        tokens |= {name: text[name] for name in ("bos_token_id", "pad_token_id") if text.get(name) is not None}
        size = text["vocab_size"]
        for name, token in tokens.items():
            self._demand(f"llm_config.{name}", token, f"a token below {size}", lambda token: _is_below(token, size))
        for name in ("qkv_bias", "qk_normalization"):
            self._demand(f"vision_config.{name}", vision.get(name), "true or false", lambda v: isinstance(v, bool))
        size = self.values.get("force_image_size") or vision.get("image_size")
        self._demand("force_image_size", size, "a whole number above 0", _is_size)
        for name in ("use_llm_lora", "use_backbone_lora"):
            self._demand(name, self.values.get(name) or 0, "a rank", lambda rank: type(rank) is int and rank >= 0)
        depth = vision["num_hidden_layers"]
        self._demand(
            "select_layer",
            self.values.get("select_layer"),
            f"a layer from {-depth - 1} to {depth}",
            lambda layer: type(layer) is int and -depth - 1 <= layer <= depth,
        )
        grid = self.image_size // vision["patch_size"]
        self._demand(
            "downsample_ratio",
            self.values.get("downsample_ratio"),
            f"a share of a grid of {grid} x {grid}",
            lambda ratio: _is_positive(ratio) and ratio <= 1 and float(grid * ratio).is_integer(),
        )

    @property
    def shuffle(self) -> str:
        """Version of the pixel shuffle; MedDr's code predates the field and computes v1."""
        return str(self.values.get("ps_version", "v1"))

    @property
    def image_size(self) -> int:
        """Pixels per side of the square that every image is resized to."""
        return int(self.values.get("force_image_size") or self._part("vision_config")["image_size"])

    @property
    def rope_theta(self) -> Any:
        """Base of the positions' angles, None where it is not given: transformers 4 and 5 write it in two places.

        Raises ConfigurationError where the two say different things, or the angles are not the plain ones.
        """
        text = self._part("llm_config")
        given, parameters = text.get("rope_theta"), text.get("rope_parameters")
        if parameters is None:
            return given
        name = "llm_config.rope_parameters"
        self._demand(name, parameters, "a table of names and values", lambda found: isinstance(found, dict))
        rest = {key: value for key, value in parameters.items() if key != "rope_theta"}
        self._expect(name, rest or PLAIN_ROPE, PLAIN_ROPE)
        newer = parameters.get("rope_theta", given)
        if given is not None:
            self._expect(f"{name}.rope_theta", newer, given)
        return newer

    def layers(self, part: str) -> int:
        """How many layers `llm_config` or `vision_config` says there are."""
        return int(self._part(part)["num_hidden_layers"])

    def lora_rank(self, part: str) -> int:
        """Rank of the updates of `llm` or `backbone`; 0 where there are none."""
        return int(self.values.get(f"use_{part}_lora") or 0)

    def stock(self, image_token_id: int) -> Any:
        """The transformers configuration."""
        text, vision = self._part("llm_config"), self._part("vision_config")
        ratio = float(self.values["downsample_ratio"])
        grid = self.image_size // vision["patch_size"]
        shuffled_v1 = self.shuffle == "v1"
        kind = InternVLV1Config if shuffled_v1 else InternVLConfig
        return kind(
            text_config={"model_type": "llama", "rope_theta": self.rope_theta, **_pick(text, _TEXT_FIELDS)},
            vision_config=_pick(vision, _VISION_FIELDS)
            | {
                "image_size": self.image_size,
                "attention_bias": vision["qkv_bias"],
                "use_qk_norm": vision["qk_normalization"],
                # Older configurations lack the field: their code knew RMSNorm only.
                "norm_type": vision.get("norm_type") or "rms_norm",
                # What leaves out transformers' final norm, which the original has not.
                "use_mean_pooling": True,
            },
            downsample_ratio=ratio,
            image_seq_length=int(grid * grid * ratio * ratio),
            image_token_id=image_token_id,
            vision_feature_layer=self.values["select_layer"],
            vision_feature_select_strategy=STRATEGY if shuffled_v1 else "default",
            # transformers ties the two by default, which would overwrite the output layer with the input one.
            tie_word_embeddings=text.get("tie_word_embeddings", False),
        )

    def _part(self, name: str) -> dict[str, Any]:
        part = self.values.get(name)
        if not isinstance(part, dict):
            raise ConfigurationError(f"config.json has no {name}: this is not the published MedDr layout")
        return part

    def _demand(self, name: str, found: object, what: str, holds: Callable[[Any], bool]) -> None:
        if found is None:
            raise ConfigurationError(f"config.json lacks {name}: this is not the published MedDr layout")
        if not holds(found):
            raise ConfigurationError(f"config.json says {name} = {found!r}, where {what} is needed")

    def _expect(self, name: str, found: object, expected: object) -> None:
        if found != expected:
            raise ConfigurationError(f"config.json says {name} = {found!r}, but only {expected!r} can be converted")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_below(value: object, end: int) -> bool:
    return type(value) is int and 0 <= value < end


def _pick(values: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: values[name] for name in names.split() if values.get(name) is not None}
