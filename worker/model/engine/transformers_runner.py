"""ModelRunner on a transformers model: BatchedRunner for most, SingleRunner for models that cannot be batched here."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any

import structlog
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from worker.model.engine.cuda_graphs import CudaGraphDecoder, PaddedDecoder
from worker.model.engine.kv_cache import CacheView, KVCache
from worker.model.engine.model_runner import NO_TOKEN, next_tokens
from worker.model.engine.option_scoring import MASK_ALIGNMENT, option_log_probs, side_by_side

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from transformers import Cache

    from worker.model.engine.model_runner import NextToken
    from worker.model.inputs import Prompt

#: Steps in which a padded decoder is compared with plain steps before it is used.
COMPARED_STEPS = 8

log = structlog.get_logger()


class TransformersRunner:
    """Vision tower, embeddings and prefill, the same for both kinds of cache; the methods are those of ModelRunner.

    *not_first* are tokens that an answer must not begin with.
    """

    def __init__(self, model: Any, *, max_sequences: int, max_tokens: int, not_first: Iterable[int] = ()) -> None:
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self._not_first = list(not_first)
        self._model = model
        self._embed = model.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings."""
        device: torch.device = self._embed.weight.device
        return device

    def check_devices(self) -> None:
        """See ModelRunner."""
        for device in {parameter.device for parameter in self._model.parameters()}:
            # Errors of earlier work on the device are raised here, too.
            torch.ones(1, device=device).add_(1).item()

    @torch.inference_mode()
    def encode_images(self, prompts: Sequence[Prompt], tiles: int) -> None:
        """See ModelRunner."""
        owners = [prompt for prompt in prompts for _ in range(prompt.pending_tiles)][:tiles]
        pixels = [prompt.next_tiles(owners.count(prompt)) for prompt in dict.fromkeys(owners)]
        features = self._model.get_image_features(torch.cat(pixels).to(self.device, self._model.dtype)).pooler_output
        for prompt, tile in zip(owners, features, strict=True):
            prompt.features.append(tile)

    def _prefill(self, cache: Cache, prompt: Prompt, start: int, count: int) -> torch.Tensor:
        """Return the logits of the token that follows, [1, vocabulary], for the first token of an answer."""
        if prompt.chunkable:
            inputs = {"inputs_embeds": self._embeddings(prompt)[None, start : start + count]}
        else:
            inputs = {name: value.to(self.device) for name, value in prompt.extra.items()}
            inputs["input_ids"] = prompt.input_ids[None].to(self.device)
        logits = self._forward(cache, **inputs)
        logits[:, self._not_first] = -torch.inf
        return logits

    def _forward(self, cache: Cache, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of the last position, [rows, vocabulary]."""
        output = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _embeddings(self, prompt: Prompt) -> torch.Tensor:
        """Return the embeddings of the prompt with its image features inserted, [tokens, hidden]."""
        if prompt.embeddings is None:
            ids = prompt.input_ids.to(self.device)
            prompt.embeddings = self._embed(ids)
            if prompt.features:
                features = torch.cat(prompt.features).to(prompt.embeddings)
                image_positions = (ids == self._model.config.image_token_id)[:, None]
                if len(features) != image_positions.sum():
                    # masked_scatter would use the first features and drop the others without an error.
                    raise ValueError(f"{len(features)} image features for {int(image_positions.sum())} image tokens")
                prompt.embeddings = prompt.embeddings.masked_scatter(image_positions, features)
        return prompt.embeddings


class BatchedRunner(TransformersRunner):
    """All rows decode together, each at its own position, over a KV cache allocated once."""

    def __init__(self, model: Any, *, max_sequences: int, max_tokens: int, not_first: Iterable[int] = ()) -> None:
        super().__init__(model, max_sequences=max_sequences, max_tokens=max_tokens, not_first=not_first)
        self.cache = KVCache(model.config.get_text_config().num_hidden_layers, max_sequences, max_tokens)
        self._padded: PaddedDecoder | None = None

    def allocate(self) -> None:
        """Allocate the KV cache: the layers do it in their first forward."""
        self.decode([0], [0])
        self.clear_row(0)

    def capture_graphs(self) -> None:
        """Decode through CUDA graphs from now on, if the model is on one GPU and the graphs compute the same tokens."""
        if self.device.type == "cuda" and len(self.cache.devices) == 1:
            self.use_if_equal(CudaGraphDecoder(self))

    def use_if_equal(self, decoder: PaddedDecoder) -> bool:
        """Decode through *decoder* from now on if it gives the tokens of plain steps of the same shape.

        Compares a single row over the narrowest cache; other batch sizes and widths are not compared.
        """
        expected = self._decode_some(PaddedDecoder(self))
        try:
            found = self._decode_some(decoder)
        except RuntimeError as error:
            log.warning("cuda_graphs.unavailable", error=str(error))
            return False
        if found != expected:
            log.warning("cuda_graphs.rejected", cause="tokens differ from plain steps")
            return False
        self._padded = decoder
        return True

    @torch.inference_mode()
    def _decode_some(self, decoder: PaddedDecoder) -> list[int]:
        tokens = [0]
        for length in range(min(COMPARED_STEPS, self.max_tokens)):
            tokens += [found.token for found in decoder.decode([max(tokens[-1], 0)], [length])]
        self.clear_row(0)
        return tokens

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> NextToken:
        """See ModelRunner."""
        logits = self._prefill(self.cache.select(CacheView(row=row, start=start)), prompt, start, count)
        return next_tokens(_choose(logits).tolist())[0]

    @torch.inference_mode()
    def score(
        self, row: int, prompt: Prompt, options: Sequence[Sequence[int]], stop_tokens: Collection[int]
    ) -> list[list[float]]:
        """See ModelRunner. One forward over the options side by side; each attends to the prompt and to itself.

        The last token of the prompt is computed again, before them: it predicts the first token of each option.
        """
        start = len(prompt) - 1
        tokens = [int(prompt.input_ids[-1]), *chain.from_iterable(options)]
        positions = [start, *(start + 1 + number for option in options for number in range(len(option)))]
        inputs = torch.tensor([tokens, positions], device=self.device)
        logits = self._model(
            input_ids=inputs[:1],
            position_ids=inputs[1:],
            attention_mask=side_by_side(options, start, dtype=self._embed.weight.dtype, device=self.device),
            past_key_values=self.cache.select(CacheView(row=row, start=start)),
            use_cache=True,
        ).logits[0]
        logits[0, self._not_first] = -torch.inf
        return option_log_probs(logits, options, stop_tokens)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[NextToken]:
        """See ModelRunner."""
        if self._padded is not None:
            return self._padded.decode(tokens, lengths)
        width = min(self.max_tokens, -(-(max(lengths) + 1) // MASK_ALIGNMENT) * MASK_ALIGNMENT)
        inputs = torch.tensor([tokens, lengths], device=self.device)
        return next_tokens(self.decode_step(inputs, width).tolist())

    def decode_step(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        """Return the next tokens of rows 0..n-1, as `_choose`, for tokens and lengths [2, n].

        Reads the first *width* columns of the cache.
        """
        tokens, lengths = inputs
        # An additive mask: attention would convert a boolean one in every layer.
        hidden = torch.arange(width, device=self.device) > lengths[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._embed.weight.dtype, device=self.device)
        logits = self._forward(
            self.cache.select(CacheView(width=width, positions=lengths)),
            input_ids=tokens[:, None],
            position_ids=lengths[:, None],
            attention_mask=mask.masked_fill_(hidden, -torch.inf)[:, None, None],
        )
        return _choose(logits)

    @torch.inference_mode()
    def move_row(self, source: int, target: int, length: int) -> None:
        """See ModelRunner."""
        self.cache.move_row(source, target, length)

    @torch.inference_mode()
    def clear_row(self, row: int) -> None:
        """See ModelRunner."""
        self.cache.clear_row(row)


class SingleRunner(TransformersRunner):
    """One sequence at a time over transformers' own cache: for sliding windows and special position schemes."""

    def __init__(self, model: Any, *, max_tokens: int, not_first: Iterable[int] = ()) -> None:
        super().__init__(model, max_sequences=1, max_tokens=max_tokens, not_first=not_first)
        self.clear_row(0)

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> NextToken:  # noqa: ARG002 - the only row
        """See ModelRunner."""
        self._last_logits = self._prefill(self.cache, prompt, start, count)
        return next_tokens(_choose(self._last_logits).tolist())[0]

    @torch.inference_mode()
    def score(
        self,
        row: int,  # noqa: ARG002 - the only row
        prompt: Prompt,  # noqa: ARG002 - the cache holds it
        options: Sequence[Sequence[int]],
        stop_tokens: Collection[int],
    ) -> list[list[float]]:
        """See ModelRunner. One option after another over copies of the cache, token by token as in `decode`."""
        scores = []
        for option in options:
            cache, logits = deepcopy(self.cache), [self._last_logits]
            logits += [self._forward(cache, input_ids=torch.tensor([[token]], device=self.device)) for token in option]
            scores += option_log_probs(torch.cat(logits), [option], stop_tokens)
        return scores

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[NextToken]:  # noqa: ARG002 - the cache counts
        """See ModelRunner."""
        logits = self._forward(self.cache, input_ids=torch.tensor([tokens], device=self.device))
        return next_tokens(_choose(logits).tolist())

    def move_row(self, source: int, target: int, length: int) -> None:
        """See ModelRunner; there is no second row."""
        raise NotImplementedError((source, target, length))

    def clear_row(self, row: int) -> None:  # noqa: ARG002 - the only row
        """See ModelRunner."""
        self.cache = DynamicCache(config=self._model.config.get_text_config())
        self._last_logits = torch.empty(0)


def _choose(logits: torch.Tensor) -> torch.Tensor:
    """Return the token with the highest logit and its log-probability: float32 [rows, 2]; NO_TOKEN if not finite."""
    values, tokens = logits.max(-1)
    log_probs = values.float() - logits.float().logsumexp(-1)
    # One tensor, so that a step is copied from the device once; float32 holds every id below 2**24.
    return torch.stack([torch.where(values.isfinite(), tokens, NO_TOKEN).float(), log_probs], dim=1)


def supports_batching(model: Any, warm: SingleRunner, length: int) -> bool:
    """Return whether BatchedRunner computes the same as *model*: all layers keep all tokens, positions are 0, 1, 2 ...

    *warm* has prefilled a prompt of *length* tokens; one more token is decoded to read its position.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if "mrope_section" in rope or not all(type(layer) is DynamicLayer for layer in warm.cache.layers):
        return False
    return _positions_of_next_token(model, warm, length) <= {length}


def _positions_of_next_token(model: Any, warm: SingleRunner, length: int) -> set[int]:
    """Return the positions that *model* gives the next token by default: PaliGemma's begin at 1."""
    positions: set[int] = set()

    def record(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        if named.get("position_ids") is not None:
            positions.update(int(position) for position in named["position_ids"].flatten())

    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in model.modules()]
    try:
        warm.decode([0], [length])
    finally:
        for hook in hooks:
            hook.remove()
    return positions
