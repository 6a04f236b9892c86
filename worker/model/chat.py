"""MedDr's chat template and image preprocessing, as in training."""

from __future__ import annotations

from typing import Any

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

#: MedDr's conversation template "Hermes-2" (sunanhe/MedDr src/model/internvl_chat/conversation.py): no newline
#: between turns, no begin-of-sequence token. As in transformers' InternVL directories an image is one
#: `<IMG_CONTEXT>`; the prompt builder expands it to `<img>`, the image's tokens, `</img>`.
CHAT_TEMPLATE = (
    "{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

#: Tokenizer attributes that transformers' InternVL processor reads.
IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}

#: Per-channel statistics of pixels in [0, 1] (sunanhe/MedDr src/data/transform.py). The image processor's default
#: is CLIP's.
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def image_processor(side: int) -> Any:
    """Return the processor that resizes images to a square of *side* pixels and normalises them."""
    size = {"height": side, "width": side}
    return GotOcr2ImageProcessorPil(size=size, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD, crop_to_patches=False)
