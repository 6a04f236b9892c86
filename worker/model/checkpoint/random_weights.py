"""Write a tiny checkpoint with seeded random weights, for smoke tests; its text has no meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from db.errors import ConfigurationError
from worker.model.chat import CHAT_TEMPLATE, IMAGE_TOKENS, image_processor
from worker.model.checkpoint.atomic import atomic_directory, remove_partial_directories
from worker.model.checkpoint.recording import record_checkpoint
from worker.model.loading import as_configuration_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: In this order, so that the padding token is 0 and the image token 5.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")

#: Words that the model generates. Bytes and parts of words are input only, so that its text can be displayed.
_VOCABULARY = (
    "abdomen abnormality acute and are aorta apical atelectasis basal bilateral bone calcified cardiac chest clear "
    "consolidation contour density diaphragm effusion enlarged evidence fluid focal fracture Findings: heart hilar "
    "Impression: in infiltrate is lateral left lesion lobe lower lung lungs marking mass mediastinum middle mild "
    "nodule no normal of opacity or pleural pneumonia pneumothorax pulmonary rib right seen shadow silhouette size "
    "soft spine stable the there tissue unremarkable upper vascular view with within without . ,"
)
WORDS = tuple(_VOCABULARY.split())

#: Pixels per side: 8 x 8 patches of 14 pixels, 16 image tokens.
IMAGE_SIZE = 112
#: Positions of the language model, as MedDr's.
CONTEXT_TOKENS = 4096


def write_random_checkpoint(directory: Path, *, seed: int = 0) -> None:
    """Write a stock InternVL directory of about 0.5 M parameters; the same *seed* gives the same bytes.

    The directory appears complete or not at all. Raises ConfigurationError if it cannot be written or is not empty:
    it may hold another model.
    """
    target = directory.resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigurationError(f"{directory} is not empty: choose another destination")
    tokenizer = _tokenizer()
    model = _model(tokenizer, seed)
    remove_partial_directories(target)
    # safetensors raises its own type for errors of the system.
    with as_configuration_error(f"{directory} cannot be written"), atomic_directory(target) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        image_processor(IMAGE_SIZE).save_pretrained(partial)
        record_checkpoint(partial, {"demo": True, "prompt_version": "1", "trained_on": "nothing: random weights"})


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    model = InternVLForConditionalGeneration(_config(len(tokenizer)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                # Wide enough that images and previous words decide the next word; norms stay at one.
                parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_(0.0, 0.5, generator=generator)
        _mask_outputs(model.lm_head.weight, allowed=_word_ids(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, do_sample=False)
    return model


def _mask_outputs(lm_head: torch.Tensor, *, allowed: list[int]) -> None:
    """Set the logits of all tokens outside *allowed* to zero: the maximum of a hundred random ones is positive."""
    mask = torch.zeros(lm_head.shape[0], 1)
    mask[allowed] = 1.0
    lm_head.mul_(mask)


def _word_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids(["Ġ" + word for word in WORDS] + ["<|im_end|>"])
    return [int(token) for token in ids]


def _config(vocabulary: int) -> Any:
    return InternVLConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
            "image_size": IMAGE_SIZE, "use_qk_norm": True, "norm_type": "rms_norm",
        },
        text_config={
            "model_type": "llama", "vocab_size": vocabulary, "max_position_embeddings": CONTEXT_TOKENS,
            "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 192,
            "num_key_value_heads": 2, "rope_theta": 5e6, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
        },
        image_token_id=SPECIAL_TOKENS.index("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(
        SPECIAL_TOKENS,
        eos_token=SPECIAL_TOKENS[2],
        pad_token=SPECIAL_TOKENS[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        extra_special_tokens=IMAGE_TOKENS,
    )


def byte_tokenizer(special_tokens: Sequence[str], **options: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer for any text: *special_tokens* from id 0 on, the 256 bytes, and WORDS as one token each.

    *options* are passed to PreTrainedTokenizerFast.
    """
    pieces, merges = _words_as_merges()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*special_tokens, *alphabet, *pieces]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **options)


def _words_as_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Merge each word letter by letter from its leading space (U+0120 in byte-level vocabularies)."""
    merges: dict[tuple[str, str], None] = {}
    for word in sorted(WORDS):
        for end in range(len(word)):
            merges["Ġ" + word[:end], word[end]] = None
    return [left + right for left, right in merges], list(merges)
