"""From a directory to a model in memory, or to one sentence that says why not."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import is_flash_attn_2_available, logging

from db.errors import ConfigurationError
from worker.model import pixel_shuffle
from worker.model.inputs import InternVLPrompts, ProcessorPrompts
from worker.model.placement import place, quantizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.model.inputs import PromptMaker

#: Layouts that InternVLPrompts serves.
INTERNVL = ("internvl", pixel_shuffle.MODEL_TYPE)
#: How everything is read: nothing from the network, and no code that lies in the directory. Unless told so,
#: transformers asks on the terminal whether it may run such code.
LOCAL_DATA_ONLY = {"local_files_only": True, "trust_remote_code": False}
#: Characters of a loader's error that are shown: the first sentence or two.
LONGEST_MESSAGE = 200


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and all that is needed to talk to it."""

    name: str
    model: Any
    tokenizer: Any
    make_prompt: PromptMaker
    stop_tokens: frozenset[int]
    #: Tokens that no answer begins with.
    not_first: frozenset[int]


def load_checkpoint(
    directory: Path, *, device: str, dtype: str, quantization: str | None = None, gpu_memory: int | None = None
) -> Checkpoint:
    """Load a stock image-text-to-text checkpoint with a chat template; no code from the checkpoint is run.

    Raises ConfigurationError where the directory cannot be used.
    """
    check_layout(directory)
    logging.disable_progress_bar()
    with one_sentence(f"the checkpoint {directory} cannot be loaded"):
        quantized = quantizer(quantization)
        model = _load_model(directory, dtype=dtype, quantized=quantized, where=place(directory, device, gpu_memory))
        tokenizer, make_prompt = load_prompts(directory, model.config)
        stop = _stop_tokens(model, tokenizer)
        not_first = stop if model.generation_config.min_new_tokens else frozenset[int]()
        return Checkpoint(directory.name, model, tokenizer, make_prompt, stop, not_first)


@contextmanager
def one_sentence(problem: str) -> Iterator[None]:
    """Turn whatever is raised inside into a ConfigurationError that begins with *problem*.

    For what reads a checkpoint's files: there is no end to what transformers raises for what may stand in them.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{problem}: {one_line(error)}") from error


def check_layout(directory: Path) -> dict[str, Any]:
    """The directory's config.json; ConfigurationError where this is no checkpoint that can be loaded."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no checkpoint at {directory}: point PRELIM_CHECKPOINT to a directory with a config.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{directory}/config.json cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{directory}/config.json cannot be used: it is no table of names and values")
    if config.get("model_type") == "internvl_chat":
        raise ConfigurationError(
            f"{directory} holds the published MedDr layout: run `prelim checkpoint convert {directory} DST` once"
        )
    return config


def _load_model(directory: Path, *, dtype: str, quantized: Any, where: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(directory, **LOCAL_DATA_ONLY)
    model, loaded = AutoModelForImageTextToText.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        quantization_config=quantized,
        attn_implementation=_attention(config),
        use_safetensors=True,
        **LOCAL_DATA_ONLY,
        **where,
        output_loading_info=True,
    )
    # from_pretrained invents what is missing and drops what it does not know, with a warning.
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[kind]:
            raise ValueError(f"{kind.replace('_', ' ')}, the first of {len(loaded[kind])}: {min(loaded[kind])}")
    return model.eval()


def _attention(config: Any) -> dict[str, str] | str:
    """Flash attention for the vision tower where it is installed; a decoding batch needs masks, so sdpa for text."""
    if not (torch.cuda.is_available() and is_flash_attn_2_available() and config.model_type in INTERNVL):
        return "sdpa"
    return {"vision_config": "flash_attention_2", "text_config": "sdpa"}


def load_prompts(directory: Path, config: Any) -> tuple[Any, PromptMaker]:
    """The directory's tokenizer, and what makes its prompts."""
    if config.model_type not in INTERNVL:
        processor = AutoProcessor.from_pretrained(directory, **LOCAL_DATA_ONLY)
        _check_template(processor)
        return processor.tokenizer, ProcessorPrompts(processor)
    tokenizer = AutoTokenizer.from_pretrained(directory, **LOCAL_DATA_ONLY)
    _check_template(tokenizer)
    # The pixels were checked with Pillow's resampling; torchvision's, the default where it is installed, differs.
    image_processor = AutoImageProcessor.from_pretrained(directory, backend="pil", **LOCAL_DATA_ONLY)
    prompts = InternVLPrompts(
        tokenizer, image_processor, image_token_id=config.image_token_id, tokens_per_tile=config.image_seq_length
    )
    return tokenizer, prompts


def _check_template(holder: Any) -> None:
    if not holder.chat_template:
        raise ValueError("it has no chat template (chat_template.jinja), so there is no telling how to ask it")


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    stop = model.generation_config.eos_token_id
    if stop is None:
        stop = tokenizer.eos_token_id
    return frozenset([stop] if isinstance(stop, int) else stop or [])


def one_line(error: BaseException) -> str:
    """What an error says, without the stack of hints that loaders append; its type too where it says little."""
    text = " ".join(str(error).split())[:LONGEST_MESSAGE]
    return text if " " in text else f"{type(error).__name__} {text}".strip()
