"""The arithmetic on a transformers model; see worker.model.engine.model_runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import structlog
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from worker.model.engine.cuda_graphs import FixedShapes, Graphs
from worker.model.engine.kv_cache import SlotCache, Window
from worker.model.engine.model_runner import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import Cache

    from worker.model.inputs import Prompt

#: Columns of the mask are rounded up to this: fused attention on CUDA wants its stride to be a multiple of 8.
ALIGNMENT = 8
#: Steps compared before recordings are used.
TRIAL_TOKENS = 8

log = structlog.get_logger()


class Runner:
    """What both ways of keeping a cache share; see Arithmetic for what each method promises."""

    #: *not_first* are tokens that no answer begins with.
    def __init__(self, model: Any, *, rows: int, tokens: int, not_first: Iterable[int] = ()) -> None:
        self.rows = rows
        self.tokens = tokens
        self._not_first = list(not_first)
        self._model = model
        self._embed = model.get_input_embeddings()

    @torch.inference_mode()
    def see(self, prompts: Sequence[Prompt], tiles: int) -> None:
        """See Arithmetic."""
        owners = [prompt for prompt in prompts for _ in range(prompt.unseen)][:tiles]
        pixels = [prompt.next_tiles(owners.count(prompt)) for prompt in dict.fromkeys(owners)]
        features = self._model.get_image_features(torch.cat(pixels).to(self._device, self._model.dtype)).pooler_output
        for prompt, tile in zip(owners, features, strict=True):
            prompt.features.append(tile)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._embed.weight.device
        return device

    def _read(self, cache: Cache, prompt: Prompt, start: int, count: int) -> int:
        if prompt.divisible:
            inputs = {"inputs_embeds": self._embeddings(prompt)[None, start : start + count]}
        else:
            inputs = {name: value.to(self._device) for name, value in prompt.extra.items()}
            inputs["input_ids"] = prompt.input_ids[None].to(self._device)
        logits = self._forward(cache, **inputs)
        logits[:, self._not_first] = -torch.inf
        return int(_greatest(logits))

    def _forward(self, cache: Cache, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the last position, [rows, vocabulary]."""
        output = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _embeddings(self, prompt: Prompt) -> torch.Tensor:
        """The prompt's [tokens, hidden], images filled in."""
        if prompt.embeddings is None:
            ids = prompt.input_ids.to(self._device)
            prompt.embeddings = self._embed(ids)
            if prompt.features:
                features = torch.cat(prompt.features).to(prompt.embeddings)
                image_positions = (ids == self._model.config.image_token_id)[:, None]
                if len(features) != image_positions.sum():
                    # masked_scatter would take the first ones and say nothing.
                    raise ValueError(f"{len(features)} features for {int(image_positions.sum())} places in the prompt")
                prompt.embeddings = prompt.embeddings.masked_scatter(image_positions, features)
        return prompt.embeddings


class SlotRunner(Runner):
    """All rows decode together, each at its own position, over a cache allocated once."""

    def __init__(self, model: Any, *, rows: int, tokens: int, not_first: Iterable[int] = ()) -> None:
        super().__init__(model, rows=rows, tokens=tokens, not_first=not_first)
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, rows, tokens)
        self._shapes: FixedShapes | None = None

    def warm_up(self) -> Self:
        """Allocate the cache; on a GPU let decode steps be recorded, if recordings prove to compute the same."""
        self.decode([0], [0])
        self.wipe(0)
        if self._device.type == "cuda" and len(self._cache.devices) == 1:
            self.use_if_equal(Graphs(self._step, self._device, rows=self.rows, tokens=self.tokens))
        return self

    def use_if_equal(self, shapes: FixedShapes) -> bool:
        """Decode through *shapes* from now on if it gives the tokens that plain steps of the same shape give.

        Compared is a single row over the narrowest cache; other batch sizes and widths are taken on trust.
        """
        plain = FixedShapes(self._step, self._device, rows=self.rows, tokens=self.tokens)
        expected = self._trial(plain)
        try:
            found = self._trial(shapes)
        except RuntimeError as error:
            log.warning("cuda_graphs_unavailable", error=str(error))
            return False
        if found != expected:
            log.warning("cuda_graphs_differ")
            return False
        self._shapes = shapes
        return True

    @torch.inference_mode()
    def _trial(self, shapes: FixedShapes) -> list[int]:
        tokens = [0]
        for length in range(min(TRIAL_TOKENS, self.tokens)):
            tokens += shapes.decode([max(tokens[-1], 0)], [length])
        self.wipe(0)
        return tokens

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:
        """See Arithmetic."""
        return self._read(self._cache.look_at(Window(row=row, start=start)), prompt, start, count)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """See Arithmetic."""
        if self._shapes is not None:
            return self._shapes.decode(tokens, lengths)
        width = min(self.tokens, -(-(max(lengths) + 1) // ALIGNMENT) * ALIGNMENT)
        inputs = torch.tensor([tokens, lengths], device=self._device)
        return [int(token) for token in self._step(inputs, width).tolist()]

    def _step(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        """The tokens that follow those of rows 0..n-1, kept at `lengths`; reads the first *width* columns."""
        tokens, lengths = inputs
        # Numbers to add rather than True and False, which attention would turn into numbers in every layer.
        hidden = torch.arange(width, device=self._device) > lengths[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._embed.weight.dtype, device=self._device)
        logits = self._forward(
            self._cache.look_at(Window(width=width, positions=lengths)),
            input_ids=tokens[:, None],
            position_ids=lengths[:, None],
            attention_mask=mask.masked_fill_(hidden, -torch.inf)[:, None, None],
        )
        return _greatest(logits)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """See Arithmetic."""
        self._cache.move(source, target, length)

    @torch.inference_mode()
    def wipe(self, row: int) -> None:
        """See Arithmetic."""
        self._cache.wipe(row)


class StockRunner(Runner):
    """One request at a time over transformers' own cache: for models with sliding windows or positions of their own."""

    def __init__(self, model: Any, *, tokens: int, not_first: Iterable[int] = ()) -> None:
        super().__init__(model, rows=1, tokens=tokens, not_first=not_first)
        self.wipe(0)

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:  # noqa: ARG002 - the only row
        """See Arithmetic."""
        return self._read(self.cache, prompt, start, count)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:  # noqa: ARG002 - the cache knows
        """See Arithmetic."""
        return [int(_greatest(self._forward(self.cache, input_ids=torch.tensor([tokens], device=self._device))))]

    def move(self, source: int, target: int, length: int) -> None:
        """See Arithmetic; there is no second row to move to."""
        raise NotImplementedError((source, target, length))

    def wipe(self, row: int) -> None:  # noqa: ARG002 - the only row
        """See Arithmetic."""
        self.cache = DynamicCache(config=self._model.config.get_text_config())


def _greatest(logits: torch.Tensor) -> torch.Tensor:
    """The token of the greatest logit in each row; NO_TOKEN where that is no finite number."""
    values, tokens = logits.max(-1)
    return torch.where(values.isfinite(), tokens, NO_TOKEN)


def batches(model: Any, read: StockRunner, length: int) -> bool:
    """Whether SlotRunner computes what *model* does: every layer keeps all tokens, positions are plain counts.

    *read* has read a prompt of *length* tokens; it decodes one more to see.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if "mrope_section" in rope or not all(type(layer) is DynamicLayer for layer in read.cache.layers):
        return False
    return _positions_of_a_step(model, read, length) <= {length}


def _positions_of_a_step(model: Any, read: StockRunner, length: int) -> set[int]:
    """The positions that *model* gives the next token where it is left to itself: PaliGemma's begin at 1."""
    given: set[int] = set()

    def listen(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        if named.get("position_ids") is not None:
            given.update(int(position) for position in named["position_ids"].flatten())

    hooks = [module.register_forward_pre_hook(listen, with_kwargs=True) for module in model.modules()]
    try:
        read.decode([0], [length])
    finally:
        for hook in hooks:
            hook.remove()
    return given
