"""Publicly stated values of MedDr_0401, and the comparison of a published directory with them.

Each value has its source. A value that no public page states is left out, and a digest that none states is None: it is
unknown, and no file is accepted or refused for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from worker.model.checkpoint.json_files import read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Sources, by the letter in the tables below.
SOURCES = {
    "M": "huggingface.co/Sunanhe/MedDr_0401, list of files",
    "T": "github.com/sunanhe/MedDr at 2136a4c, train.sh",
    "C": "github.com/sunanhe/MedDr at 2136a4c, src/model/internvl_chat and src/dataset/transforms.py",
    "B": "huggingface.co/OpenGVLab/InternVL-Chat-V1-2, config.json: its base model",
    "V": "huggingface.co/OpenGVLab/InternViT-6B-448px-V1-2, config.json: its vision tower",
    "Y": "huggingface.co/NousResearch/Nous-Hermes-2-Yi-34B, config.json: its language model",
}


class Value(NamedTuple):
    """A value of config.json: its path, what is published, its source, and what a missing field means."""

    path: str
    published: Any
    source: str
    missing: Any = None


#: Values that change results and are the same for every size of model.
CONSTANTS = (
    Value("template", "Hermes-2", "T"),
    Value("pad2square", False, "T", missing=False),
    Value("dynamic_image_size", False, "C", missing=False),
    Value("ps_version", "v1", "C", missing="v1"),
    Value("downsample_ratio", 0.5, "T"),
    Value("select_layer", -1, "T"),
    Value("use_backbone_lora", 0, "T", missing=0),
    Value("llm_config.hidden_act", "silu", "Y"),
    Value("llm_config.rms_norm_eps", 1e-5, "Y"),
    Value("llm_config.rope_theta", 5_000_000.0, "Y"),
    Value("llm_config.max_position_embeddings", 4096, "Y"),
    Value("llm_config.tie_word_embeddings", False, "Y", missing=False),
    Value("llm_config.attention_bias", False, "Y", missing=False),
    Value("llm_config.mlp_bias", False, "Y", missing=False),
    Value("llm_config.pretraining_tp", 1, "Y", missing=1),
    Value("llm_config.bos_token_id", 1, "Y"),
    Value("llm_config.eos_token_id", 7, "Y"),
    Value("llm_config.pad_token_id", 0, "Y"),
    Value("vision_config.hidden_act", "gelu", "V"),
    Value("vision_config.layer_norm_eps", 1e-6, "V"),
    Value("vision_config.qkv_bias", False, "V"),
    Value("vision_config.qk_normalization", True, "V"),
    Value("vision_config.norm_type", "rms_norm", "C", missing="rms_norm"),
    Value("vision_config.num_channels", 3, "V", missing=3),
)
#: Values of MedDr_0401's own size; compared only for a checkpoint that is large enough to be it.
SIZES = (
    Value("force_image_size", 448, "T"),
    Value("use_llm_lora", 16, "T"),
    Value("llm_config.hidden_size", 7168, "B"),
    Value("llm_config.intermediate_size", 20480, "B"),
    Value("llm_config.num_hidden_layers", 60, "B"),
    Value("llm_config.num_attention_heads", 56, "B"),
    Value("llm_config.num_key_value_heads", 8, "B"),
    Value("llm_config.head_dim", 128, "B", missing=128),
    Value("vision_config.hidden_size", 3200, "V"),
    Value("vision_config.intermediate_size", 12800, "V"),
    Value("vision_config.num_hidden_layers", 45, "V"),
    Value("vision_config.num_attention_heads", 25, "V"),
    Value("vision_config.patch_size", 14, "V"),
    Value("vision_config.image_size", 448, "V"),
)

#: Sources that are pages of MedDr itself; the others are those of its base models.
OWN_SOURCES = "MTC"
_WITHOUT_EFFECT = """
_commit_hash _name_or_path architectures attention_dropout attn_implementation bad_words_ids begin_suppress_tokens
chunk_size_feed_forward diversity_penalty do_sample dropout drop_path_rate dtype early_stopping finetuning_task id2label
initializer_factor initializer_range label2id length_penalty max_length min_length model_type no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores problem_type
pruned_heads repetition_penalty return_dict return_dict_in_generate rope_parameters temperature tie_word_embeddings
tokenizer_class top_k top_p torch_dtype transformers_version typical_p use_cache use_flash_attn vocab_size
"""
#: Fields of a configuration that change no result here, at any level, or are compared in another way: names, defaults
#: of transformers 4 for other ways to generate, and starting values of a training.
WITHOUT_EFFECT = frozenset(_WITHOUT_EFFECT.split())

#: SHA-256 of the published files. The pages that state those of MedDr_0401 could not be read when this list was made.
SHARDS = 17
DIGESTS: Mapping[str, str | None] = {
    **{f"model-{number:05d}-of-{SHARDS:05d}.safetensors": None for number in range(1, SHARDS + 1)},
    "config.json": None,
    "generation_config.json": None,
    "added_tokens.json": None,
    "tokenizer_config.json": None,
    "tokenizer.model": None,
}
#: SHA-256 of the tokenizer.model of the Yi models, from which MedDr's derives; stated for 01-ai's releases and in
#: github.com/SillyTavern/SillyTavern, src/tokenizers. Whether MedDr_0401 holds the same file is not stated.
YI_TOKENIZER = "386c49cf943d71aa110361135338c50e38beeff0a66593480421f37b319e1a39"

#: Pixel statistics of the original transform (source C); an image processor's file may state others.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
#: Values of a preprocessor_config.json that describe the original transform.
PREPROCESSING = {
    "image_mean": MEAN,
    "image_std": STD,
    "do_resize": True,
    "do_normalize": True,
    "do_center_crop": (True, False),
    "resample": 3,
    "crop_to_patches": False,
    "do_pad": False,
    "rescale_factor": (1 / 255, 0.00392156862745098),
}
#: Keys of the published generation_config.json (source M: 69 bytes), and the token ids, which are compared.
GENERATION = {"_from_model_config", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"}
#: Files of peft or of another release that would change the model, and are not part of the publication.
UNPUBLISHED = (
    *("adapter_config.json", "adapter_model.bin", "non_lora_state_dict.bin"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "quantize_config.json", "quant_config.json"),
)
#: Field of a configuration whose weights are quantized, at any level; the publication's are not.
QUANTIZATION = "quantization_config"


def deviations(config: Mapping[str, Any], *, large: bool) -> Iterator[str]:
    """Yield a sentence for each value of a published config.json that differs from MedDr_0401."""
    for value in (*CONSTANTS, *(SIZES if large else ())):
        found = _find(config, value.path)
        found = value.missing if found is None else found
        if found != value.published or isinstance(found, bool) != isinstance(value.published, bool):
            yield (
                f"{value.path} = {found!r} in config.json differs from MedDr_0401: {value.published!r}"
                f" ({SOURCES[value.source]})"
            )


def unstated(config: Mapping[str, Any], *, large: bool) -> Iterator[str]:
    """Yield a sentence for each part of a publication that no page of MedDr_0401 states, so that it is not judged."""
    values = (*CONSTANTS, *(SIZES if large else ()))
    base = [value.path for value in values if value.source not in OWN_SOURCES]
    yield (
        f"{len(base)} values of config.json, such as llm_config.rope_theta, are compared with the pages of the base"
        " models: none states MedDr_0401's own"
    )
    yield "the ids of the added tokens are compared between the files only"
    compared = {value.path for value in (*CONSTANTS, *SIZES)}
    if fields := [name for name in _fields(config) if name not in compared]:
        yield f"fields of config.json that were not compared: {', '.join(sorted(fields))}"


def _fields(config: Mapping[str, Any], part: str = "") -> Iterator[str]:
    """Yield the paths of the fields that have a value and can change results."""
    for name, value in config.items():
        if isinstance(value, dict) and not part and name.endswith("_config"):
            yield from _fields(value, f"{name}.")
        elif value and name not in WITHOUT_EFFECT:
            yield part + name


def side_files(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each file beside the weights that contradicts the publication."""
    for name in UNPUBLISHED:
        if (directory / name).exists():
            yield f"{name} is not part of the publication, and the conversion would ignore it"
    for name, part in {
        "": config,
        "llm_config.": config.get("llm_config"),
        "vision_config.": config.get("vision_config"),
    }.items():
        if isinstance(part, dict) and part.get(QUANTIZATION):
            yield f"{name}{QUANTIZATION} in config.json is not part of the publication, whose weights are not quantized"
    yield from _generation(directory, config)
    yield from _preprocessing(directory, config)


def unknown_digests(digests: Mapping[str, str]) -> list[str]:
    """Return the names of those files of *digests* whose published SHA-256 is unknown."""
    known = {YI_TOKENIZER, *filter(None, DIGESTS.values())}
    return sorted(name for name, digest in digests.items() if digest not in known)


def wrong_digests(digests: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each file whose published SHA-256 is known and different."""
    for name, digest in digests.items():
        published = DIGESTS.get(name)
        if published is not None and published != digest:
            yield f"{name} has the SHA-256 {digest}, the published file {published}"


def _generation(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    text = config.get("llm_config") or {}
    stored = read_json_object(directory / "generation_config.json", missing={})
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        found = stored.get(name)
        if found is not None and found != text.get(name):
            yield f"{name} = {found!r} in generation_config.json differs from {text.get(name)!r} in config.json"
    if unexpected := stored.keys() - GENERATION:
        yield f"{min(unexpected)} in generation_config.json is not part of the publication, which decodes greedily"


def _preprocessing(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    stored = read_json_object(directory / "preprocessor_config.json", missing={})
    for name, expected in PREPROCESSING.items():
        found = stored.get(name)
        accepted = expected if isinstance(expected, tuple) else (expected,)
        if found is not None and found not in accepted:
            yield f"{name} = {found!r} in preprocessor_config.json: the original uses {accepted[0]!r}"
    side = config.get("force_image_size") or (config.get("vision_config") or {}).get("image_size")
    for name in ("size", "crop_size"):
        found = stored.get(name)
        sides = set(found.values()) if isinstance(found, dict) else {found}
        if found is not None and sides != {side}:
            yield f"{name} = {found!r} in preprocessor_config.json: the original resizes to {side!r}"


def _find(config: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, None if it is missing; the rope base also where transformers 5 writes it."""
    part, _, name = path.rpartition(".")
    values = config.get(part, {}) if part else config
    if not isinstance(values, dict):
        return None
    if name == "rope_theta" and values.get(name) is None:
        values = values.get("rope_parameters") or {}
    return values.get(name)
