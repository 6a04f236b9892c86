"""Load a checkpoint directory, or raise a ConfigurationError of one line."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import is_flash_attn_2_available, logging

from db.errors import ConfigurationError
from worker.model.checkpoint.json_files import read_json_object
from worker.model.inputs import InternVLPromptBuilder, ProcessorPromptBuilder
from worker.model.pixel_shuffle import INTERNVL
from worker.model.placement import place, quantizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.model.inputs import PromptBuilder

#: Options of every `from_pretrained`: no download, and no code from the directory. Without the second, transformers
#: asks on the terminal whether to run such code.
LOCAL_DATA_ONLY = {"local_files_only": True, "trust_remote_code": False}
#: Parameters below which a model on CPUs is computed by one thread: an image of the demo checkpoint costs 10 ms of
#: processor time with one thread and 52 ms with two, which wait for each other after each small product.
SMALL_MODEL = 100_000_000
#: Characters shown of a loader's error: its first sentence or two.
MAX_MESSAGE = 200


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer and prompt builder.

    `not_first` are tokens that an answer must not begin with.
    """

    name: str
    model: Any
    tokenizer: Any
    prompts: PromptBuilder
    stop_tokens: frozenset[int]
    not_first: frozenset[int]

    @property
    def max_positions(self) -> int:
        """Positions of the language model: its longest sequence in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)


def load_checkpoint(
    directory: Path, *, device: str, dtype: str, quantization: str | None = None, gpu_memory: int | None = None
) -> Checkpoint:
    """Load a stock image-text-to-text checkpoint with a chat template; no code from the checkpoint is run.

    Raises ConfigurationError if the directory cannot be used.
    """
    check_layout(directory)
    logging.disable_progress_bar()
    with as_configuration_error(f"the checkpoint {directory} cannot be loaded"):
        quantized = quantizer(quantization)
        model = _load_model(directory, dtype=dtype, quantized=quantized, where=place(directory, device, gpu_memory))
        tokenizer, prompts = load_prompts(directory, model.config)
        if model.device.type == "cpu" and model.num_parameters() < SMALL_MODEL:
            torch.set_num_threads(1)
        stop = _stop_tokens(model, tokenizer)
        not_first = stop if model.generation_config.min_new_tokens else frozenset[int]()
        return Checkpoint(directory.name, model, tokenizer, prompts, stop, not_first)


@contextmanager
def as_configuration_error(problem: str) -> Iterator[None]:
    """Turn any exception inside into a ConfigurationError that begins with *problem*.

    For code that reads a checkpoint's files: transformers raises almost any type for wrong contents.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{problem}: {one_line(error)}") from error


def check_layout(directory: Path) -> dict[str, Any]:
    """Return the directory's config.json; raises ConfigurationError if the checkpoint cannot be loaded."""
    config = read_json_object(directory / "config.json", missing={})
    if not config:
        raise ConfigurationError(
            f"no checkpoint at {directory}: set PRELIM_CHECKPOINT to a directory with a config.json"
        )
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
    # from_pretrained only warns when it initialises missing tensors and drops unknown ones.
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[kind]:
            raise ValueError(f"{len(loaded[kind])} {kind.replace('_', ' ')}, first: {min(loaded[kind])}")
    return model.eval()


def _attention(config: Any) -> dict[str, str] | str:
    """Return flash attention for the vision tower if installed; sdpa for text, because batched decoding needs masks."""
    if not (torch.cuda.is_available() and is_flash_attn_2_available() and config.model_type in INTERNVL):
        return "sdpa"
    return {"vision_config": "flash_attention_2", "text_config": "sdpa"}


def load_prompts(directory: Path, config: Any) -> tuple[Any, PromptBuilder]:
    """Return the directory's tokenizer and prompt builder."""
    if config.model_type not in INTERNVL:
        processor = AutoProcessor.from_pretrained(directory, **LOCAL_DATA_ONLY)
        _check_template(processor)
        return processor.tokenizer, ProcessorPromptBuilder(processor)
    tokenizer = AutoTokenizer.from_pretrained(directory, **LOCAL_DATA_ONLY)
    _check_template(tokenizer)
    # Parity was measured with Pillow's resampling; torchvision's, the default if it is installed, differs.
    image_processor = AutoImageProcessor.from_pretrained(directory, backend="pil", **LOCAL_DATA_ONLY)
    prompts = InternVLPromptBuilder(
        tokenizer, image_processor, image_token_id=config.image_token_id, tokens_per_tile=config.image_seq_length
    )
    return tokenizer, prompts


def _check_template(holder: Any) -> None:
    if not holder.chat_template:
        raise ValueError("no chat template: chat_template.jinja is missing")


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    stop = model.generation_config.eos_token_id
    if stop is None:
        stop = tokenizer.eos_token_id
    return frozenset([stop] if isinstance(stop, int) else stop or [])


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, cut to MAX_MESSAGE; a single word is preceded by the error's type."""
    text = " ".join(str(error).split())[:MAX_MESSAGE]
    return text if " " in text else f"{type(error).__name__} {text}".strip()
