"""Stock checkpoints of other architectures, created by the tests, are served without conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from worker.model.checkpoint.manifest import write_manifest
from worker.model.checkpoint.random_weights import byte_tokenizer
from worker.model.engine.request import Request
from worker.model.engine.transformers_runner import BatchedRunner, SingleRunner
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[Path], None]

TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def sharpen(model: Any) -> None:
    """Draw wide weights, so that prompt and image decide the tokens."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5, generator=generator)


def write_llava(directory: Path) -> None:
    tokenizer = byte_tokenizer(["<image>"])
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), num_key_value_heads=2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config)
    sharpen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(directory)


def write_gemma(directory: Path) -> None:
    """MedGemma's architecture: sliding windows, and bidirectional attention within images."""
    names = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
    tokenizer = byte_tokenizer(list(names.values()), extra_special_tokens=names)
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION, image_size=28, patch_size=14).to_dict(),
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<boi>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<eoi>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    sharpen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<boi>"),
    ).save_pretrained(directory)


def write_llava_next(directory: Path) -> None:
    """Tiled images; `get_image_features` needs their sizes beside the pixels."""
    names = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = byte_tokenizer(list(names.values()), extra_special_tokens=names)
    grid = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), num_key_value_heads=2),
        image_token_index=0,
        image_grid_pinpoints=grid,
    )
    model = LlavaNextForConditionalGeneration(config)
    sharpen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(directory)


def write_idefics(directory: Path) -> None:
    """SmolVLM's architecture: pixels with one more dimension, and a mask over them."""
    tokenizer = byte_tokenizer(
        ["<pad>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"], pad_token="<pad>"
    )
    text = {"model_type": "llama", **TEXT, "vocab_size": len(tokenizer) + 60, "num_key_value_heads": 2}
    config = Idefics3Config(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config={**text, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0},
        image_token_id=1,
        scale_factor=2,
        pad_token_id=0,
    )
    model = Idefics3ForConditionalGeneration(config)
    sharpen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(directory)


def write_paligemma(directory: Path) -> None:
    """Positions that begin at 1, no prompt without an image, training labels by default."""
    tokenizer = byte_tokenizer(
        ["<pad>", "<bos>", "<image>"],
        extra_special_tokens={"image_token": "<image>"},
        bos_token="<bos>",
        pad_token="<pad>",
    )
    text = {"model_type": "gemma", **TEXT, "head_dim": 8, "vocab_size": len(tokenizer) + 1100}
    vision = SiglipVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=32, vision_use_head=False)
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config={**text, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0},
        projection_dim=32,
        image_token_index=2,
    )
    model = PaliGemmaForConditionalGeneration(config)
    sharpen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    image_processor = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    image_processor.image_seq_length = 4
    PaliGemmaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=TEMPLATE.replace("IMAGE", "<image>")
    ).save_pretrained(directory)


# PaliGemma's processor converts a tensor to numpy in a deprecated way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "runner"),
    [
        (write_llava, BatchedRunner),
        (write_llava_next, BatchedRunner),
        (write_idefics, BatchedRunner),
        (write_gemma, SingleRunner),
        (write_paligemma, SingleRunner),
    ],
)
def test_other_architecture_answers_as_its_own_generate(tmp_path: Path, write: Write, runner: type) -> None:
    write(tmp_path)
    write_manifest(tmp_path, {"demo": True})
    model = ResidentModel.load(tmp_path, device="cpu", slots=3, context_tokens=256)
    images = [np.full((40, 30, 3), shade, np.uint8) for shade in (20, 120, 220)]

    futures = [model.submit(Request("What is it?", [image], max_new_tokens=24)) for image in images]
    answers = [future.result(60) for future in futures]
    tokens = model.patch_tokens(images)
    model.close()

    assert isinstance(model.engine.runner, runner)
    for image, answer in zip(images, answers, strict=True):
        prompt = model.checkpoint.prompts.build("What is it?", [image])
        generated = model.checkpoint.model.generate(input_ids=prompt.input_ids[None], **prompt.extra, max_new_tokens=24)
        assert answer.token_ids == generated[0, len(prompt) :].tolist()
    assert (tokens.shape[:2], tokens.shape[-1]) == ((3, 1), 32)
    assert len(np.unique(tokens.mean(axis=(1, 2)).round(4), axis=0)) == 3
    assert len({answer.text for answer in answers}) > 1, "the images do not change the answer"
