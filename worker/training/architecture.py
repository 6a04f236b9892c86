"""Architecture and tokenizer of the demo checkpoint: a stock InternVL, small enough for the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from worker.model.chat import CHAT_TEMPLATE, image_processor
from worker.model.checkpoint.random_weights import SPECIAL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: 8 x 8 patches of 16 pixels; 16 image tokens.
IMAGE_PIXELS = 128
PATCH_PIXELS = 16
PATCHES = (IMAGE_PIXELS // PATCH_PIXELS) ** 2
IMAGE_TOKENS = PATCHES // 4
#: Width of tower and language model: with four and three blocks, seven megabytes in bfloat16.
WIDTH = 192
CONTEXT_TOKENS = 1024


def build_model(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return the model with random weights, drawn from torch's global generator."""
    config = InternVLConfig(
        vision_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "intermediate_size": 4 * WIDTH,
            "image_size": IMAGE_PIXELS,
            "patch_size": PATCH_PIXELS,
            "use_qk_norm": True,
            "norm_type": "rms_norm",
            "layer_scale_init_value": 1.0,
            "hidden_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": CONTEXT_TOKENS,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        image_token_id=SPECIAL_TOKENS.index("<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    torch.nn.init.trunc_normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.02)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, do_sample=False)
    return model


def save(model: Any, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the stock layout in bfloat16."""
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    image_processor(IMAGE_PIXELS).save_pretrained(directory)


def load(directory: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """Load what `save` wrote: the model in float32 and its tokenizer."""
    model = InternVLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)


def copy_weights(source: tuple[Any, PreTrainedTokenizerFast], target: tuple[Any, PreTrainedTokenizerFast]) -> None:
    """Copy the weights of a model of this architecture; those of words by their text, because vocabularies differ."""
    old, new = (tokenizer.get_vocab() for _, tokenizer in (source, target))
    both = [(old[word], new[word]) for word in old.keys() & new.keys()]
    rows, places = (torch.tensor(numbers) for numbers in zip(*both, strict=True))
    theirs, ours = source[0].state_dict(), target[0].state_dict()
    for name, weights in ours.items():
        if weights.shape == theirs[name].shape and len(weights) != len(new):
            weights.copy_(theirs[name])
        else:
            weights[places] = theirs[name][rows]


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token for each word of *texts*; all other text is split into bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *alphabet, *_words(texts)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    # No merges: a word of the vocabulary is one token, without tokens for its prefixes, which merges would need.
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",  # noqa: S106 - a word of the vocabulary
        pad_token="<|endoftext|>",  # noqa: S106 - a word of the vocabulary
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
    )


def _words(texts: Iterable[str]) -> list[str]:
    """Return the words as the byte-level pre-tokenizer splits them."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {
        piece for text in set(texts) for piece, _ in cut.pre_tokenize_str(text) if any(map(str.isalpha, piece[1:]))
    }
    return sorted(words)
