"""A ModelRunner without a model: rows are lists, and the next token depends on all tokens of its row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import torch

from worker.model.engine.model_runner import NO_TOKEN, NextToken
from worker.model.inputs import Prompt

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

STOP = 0


def next_token(history: Sequence[int]) -> int:
    """Return a token other than STOP."""
    return 1 + hash(tuple(history)) % 997


def log_prob(history: Sequence[int]) -> float:
    """Return a log-probability that depends on all tokens of the row."""
    return -(hash((len(history), *history)) % 1009) / 1009


def answer(prompt: Sequence[int], count: int) -> list[int]:
    """Return the tokens of a request that runs alone."""
    history = list(prompt)
    for _ in range(count):
        history.append(next_token(history))
    return history[len(prompt) :]


def log_probs(prompt: Sequence[int], count: int) -> list[float]:
    """Return the log-probabilities of the tokens of `answer`."""
    history = [*prompt, *answer(prompt, count)]
    return [log_prob(history[: len(prompt) + number]) for number in range(count)]


def scores(prompt: Sequence[int], options: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the log-probabilities of the tokens and the end of each option of a request that runs alone."""
    return [[log_prob([*prompt, *option[:count]]) for count in range(len(option) + 1)] for option in options]


def prompt(*tokens: int, tiles: int = 0, options: Sequence[Sequence[int]] = ()) -> Prompt:
    pixels = torch.zeros(tiles, 3, 2, 2) if tiles else None
    return Prompt(torch.tensor(tokens), pixels, options=[list(option) for option in options])


@dataclass
class FakeRunner:
    """Checks its caller: rows are clear, contiguous and of the given length."""

    max_sequences: int = 4
    max_tokens: int = 64
    #: Largest batch that does not run out of memory.
    memory: int = 100
    #: First tokens of prompts that cannot be prefilled and images that cannot be encoded.
    poison: set[int] = field(default_factory=set)
    #: First tokens of prompts that fail every decode step they take part in.
    decode_poison: set[int] = field(default_factory=set)
    #: First tokens of prompts whose logits are not finite from the third token on.
    infinite: set[int] = field(default_factory=set)
    stop_after: dict[int, int] = field(default_factory=dict)
    cached: dict[int, list[int]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    vision_batches: list[int] = field(default_factory=list)
    #: First tokens of prompts whose options cannot be scored.
    score_poison: set[int] = field(default_factory=set)
    #: Numbers of options scored at once.
    scored: list[int] = field(default_factory=list)
    #: Largest number of option tokens that does not run out of memory beside other rows.
    option_memory: int = 10_000

    def check_devices(self) -> None:
        """All compute."""

    def encode_images(self, prompts: Sequence[Prompt], tiles: int) -> None:
        owners = [prompt for prompt in prompts for _ in range(prompt.pending_tiles)][:tiles]
        if len(owners) > self.memory:
            raise torch.OutOfMemoryError
        if any(int(prompt.input_ids[0]) in self.poison for prompt in owners):
            raise ValueError("an image that cannot be encoded")
        self.vision_batches.append(len(owners))
        for owner in owners:
            owner.features.append(torch.zeros(1))

    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> NextToken:
        assert prompt.pending_tiles == 0
        content = [int(token) for token in prompt.input_ids]
        if content[0] in self.poison:
            raise ValueError("a prompt that cannot be prefilled")
        cached = self.cached.setdefault(row, [])
        assert len(cached) == start, "the row was not clear"
        cached += content[start : start + count]
        self.chunks.append(count)
        return self._next(cached)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[NextToken]:
        if len(tokens) > self.memory:
            raise torch.OutOfMemoryError
        if any(self.cached[row][0] in self.decode_poison for row in range(len(tokens))):
            raise ValueError("a row that cannot be decoded")
        self.batches.append(len(tokens))
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.cached[row]) == length
            self.cached[row].append(token)
        return [self._next(self.cached[row]) for row in range(len(tokens))]

    def score(
        self, row: int, prompt: Prompt, options: Sequence[Sequence[int]], stop_tokens: Collection[int]
    ) -> list[list[float]]:
        content = [int(token) for token in prompt.input_ids]
        cached = self.cached[row]
        assert cached[: len(content)] == content
        assert list(stop_tokens) == [STOP]
        cached[len(content) :] = [*chain.from_iterable(options)]
        assert len(cached) <= self.max_tokens, "the options do not fit in the row"
        if content[0] in self.score_poison:
            raise ValueError("options that cannot be scored")
        if sum(map(len, options)) > self.option_memory:
            raise torch.OutOfMemoryError
        self.scored.append(len(options))
        found = scores(content, options)
        return [[math.nan for _ in values] for values in found] if content[0] in self.infinite else found

    def move_row(self, source: int, target: int, length: int) -> None:
        assert not self.cached.get(target), "the row was not clear"
        assert len(self.cached[source]) <= length, "tokens would be left in the row"
        self.cached[target] = self.cached[source][:length]
        self.cached[source] = []

    def clear_row(self, row: int) -> None:
        self.cached[row] = []

    def _next(self, cached: Sequence[int]) -> NextToken:
        if cached[0] in self.infinite and len(cached) > len("ab"):
            return NextToken(NO_TOKEN, math.nan)
        stops = len(cached) == self.stop_after.get(cached[0], -1)
        return NextToken(STOP if stops else next_token(cached), log_prob(cached))
