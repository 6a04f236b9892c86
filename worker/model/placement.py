"""Placement of the weights on devices, and the number of requests that fit beside them."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import get_max_memory
from transformers import BitsAndBytesConfig

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Share of a GPU's memory that weights may take before a model is spread over several: the rest is KV cache and
#: workspace.
WEIGHTS_SHARE = 0.85
#: Share of the memory left after loading that the KV cache may take: the rest is workspace of prefill and vision.
CACHE_SHARE = 0.8
#: Modules kept in the checkpoint's precision: small beside the language model, and most sensitive to quantization.
NOT_QUANTIZED = ["vision_tower", "multi_modal_projector", "lm_head"]


def place(directory: Path, device: str, limit: int | None = None) -> dict[str, Any]:
    """Return the placement arguments of `from_pretrained`.

    *device* as given; for `auto` the GPU with the most free memory, several if one is too small, or the CPU. *limit*
    is in bytes per GPU.
    """
    if device != "auto":
        _check(device)
        return {"device_map": {"": device}}
    free = gpu_memory(limit)
    if not free:
        return {"device_map": {"": "cpu"}}
    roomiest = max(free, key=lambda number: free[number])
    if weight_bytes(directory) <= WEIGHTS_SHARE * free[roomiest] or len(free) == 1:
        return {"device_map": {"": f"cuda:{roomiest}"}}
    # "cpu" is left out: every token would wait for the transfer of the layers placed there.
    return {"device_map": "auto", "max_memory": {number: int(WEIGHTS_SHARE * free[number]) for number in free}}


def gpu_memory(limit: int | None = None) -> dict[int, int]:
    """Return the free bytes of each GPU, at most *limit*."""
    free = {number: memory for number, memory in get_max_memory().items() if number not in ("cpu", "mps")}
    return free if limit is None else {number: min(memory, limit) for number, memory in free.items()}


def gpu_names(devices: Iterable[torch.device]) -> list[str]:
    """Return the names of the GPUs among *devices*, as `nvidia-smi -L` prints them: the same after a restart.

    For a build of torch without UUIDs, host and number.
    """
    numbers = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    return [_gpu_name(number) for number in numbers]


def _gpu_name(number: int) -> str:
    uuid = getattr(torch.cuda.get_device_properties(number), "uuid", None)
    return f"{socket.gethostname()}/{number}" if uuid is None else f"GPU-{uuid}"


def weight_bytes(directory: Path) -> int:
    """Return the size of the weights as stored, in bytes."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def quantizer(name: str | None) -> Any:
    """Return the transformers configuration for `int8` or `int4` weights of all modules but NOT_QUANTIZED."""
    if name in (None, "none"):
        return None
    if name not in ("int8", "int4"):
        raise ConfigurationError(f"unknown quantization {name!r}: use int8 or int4, or unset PRELIM_QUANTIZATION")
    if find_spec("bitsandbytes") is None:
        raise ConfigurationError(
            f"quantization {name} needs bitsandbytes: pip install bitsandbytes, or unset PRELIM_QUANTIZATION"
        )
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTIZED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NOT_QUANTIZED,
    )


def cache_bytes_per_token(cache: Any) -> dict[torch.device, int]:
    """Return the bytes of one token on each device, measured on a transformers cache that holds some tokens."""
    costs: dict[torch.device, int] = {}
    for layer in cache.layers:
        tokens = layer.keys.shape[0] * layer.keys.shape[2]
        size = (layer.keys.nbytes + layer.values.nbytes) // tokens
        costs[layer.keys.device] = costs.get(layer.keys.device, 0) + size
    return costs


def rows_that_fit(costs: dict[torch.device, int], row_tokens: int, free: dict[torch.device, int]) -> int:
    """Return the number of rows of *row_tokens* tokens that fit on the device with the least free memory."""
    return min(int(CACHE_SHARE * free[device]) // (cost * row_tokens) for device, cost in costs.items())


def free_memory(devices: Iterable[torch.device], limit: int | None = None) -> dict[torch.device, int]:
    """Return the bytes that can be allocated on each device now; on a GPU up to *limit* for this process."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    memory = get_max_memory()
    free = {device: memory["cpu" if device.type == "cpu" else device.index or 0] for device in devices}
    if limit is None:
        return free
    return {
        device: size if device.type == "cpu" else min(size, limit - torch.cuda.memory_allocated(device))
        for device, size in free.items()
    }


def _check(device: str) -> None:
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from None
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"no device {device!r}: {torch.cuda.device_count()} CUDA devices found")
