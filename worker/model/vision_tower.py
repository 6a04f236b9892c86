"""The vision tower of a checkpoint without its language model: adds cases to an index beside a worker that serves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import structlog
import torch
from transformers import AutoConfig, AutoModel

from worker.model import placement
from worker.model.checkpoint.manifest import check_files, check_unchanged, read_manifest
from worker.model.checkpoint.recording import check_use
from worker.model.checkpoint.shards import Source
from worker.model.loading import LOCAL_DATA_ONLY, as_configuration_error, check_layout, load_prompts
from worker.model.patch_tokens import overview_tokens
from worker.model.pixel_shuffle import INTERNVL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from worker.model.inputs import PromptBuilder

log = structlog.get_logger()

#: Part of the names of the tower's tensors; older layouts have "model." before it.
PREFIX = "vision_tower."


class VisionTower:
    """A loaded tower; `digest` is that of the whole checkpoint, whose index it computes vectors for."""

    def __init__(self, tower: Any, prompts: PromptBuilder, digest: str) -> None:
        self._tower = tower
        self._prompts = prompts
        self.digest = digest

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto", dtype: str = "auto") -> Self:
        """Load the tower of *directory*, whose files are compared with its manifest.

        On `auto` the GPU with the most free memory, or the CPU if the worker's model left too little. *dtype* is `auto`
        (as stored) or a torch name. Raises ConfigurationError if the checkpoint cannot be used.
        """
        check_layout(directory)
        manifest = read_manifest(directory)
        check_use(directory, manifest)
        read = check_files(directory, manifest)
        with as_configuration_error(f"the vision tower of {directory} cannot be loaded"):
            config = AutoConfig.from_pretrained(directory, **LOCAL_DATA_ONLY)
            kept = config.dtype if dtype == "auto" else getattr(torch, dtype)
            tower = _read(directory, config.vision_config, kept)
            place = _place(device, sum(tensor.nbytes for tensor in tower.parameters()))
            prompts = load_prompts(directory, config)[1]
            loaded = cls(tower.to(place).eval(), prompts, manifest.digest)
        check_unchanged(directory, read)
        log.info("vision_tower.loaded", digest=manifest.digest[:12], device=place)
        return loaded

    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the patch tokens of images as the whole model does: float32 [images, layers, patches, channels]."""
        tokens = [overview_tokens(self._tower, self._prompts, image) for image in images]
        return np.concatenate([one.float().cpu().numpy() for one in tokens])


def has_separate_tower(directory: Path) -> bool:
    """Return whether the tower of a checkpoint can be loaded alone: that of an InternVL layout."""
    return check_layout(directory).get("model_type") in INTERNVL


def _read(directory: Path, config: Any, dtype: torch.dtype) -> Any:
    # Without memory until the stored tensors are assigned: random weights of a large tower would take minutes.
    with torch.device("meta"):
        tower = AutoModel.from_config(config, attn_implementation="sdpa")
    source = Source(directory)
    names = [name for name in source.shapes if PREFIX in name]
    state = {name.partition(PREFIX)[2]: source.read(name).to(dtype) for name in names}
    tower.load_state_dict(state, assign=True)
    return tower


def _place(device: str, size: int) -> str:
    """Return the device for *size* bytes of weights."""
    if device != "auto":
        return device
    free = placement.gpu_memory()
    roomiest = max(free, key=lambda number: free[number], default=-1)
    # As much again for its workspace.
    return f"cuda:{roomiest}" if free.get(roomiest, -math.inf) > 2 * size else "cpu"
