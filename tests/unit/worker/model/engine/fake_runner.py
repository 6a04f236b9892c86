"""A runner without a model: its rows are lists, and the next token depends on everything the row holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from worker.model.engine.model_runner import NO_TOKEN
from worker.model.inputs import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP = 0


def next_token(history: Sequence[int]) -> int:
    """Never STOP."""
    return 1 + hash(tuple(history)) % 997


def answer(prompt: Sequence[int], count: int) -> list[int]:
    """What a request alone would get."""
    history = list(prompt)
    for _ in range(count):
        history.append(next_token(history))
    return history[len(prompt) :]


def prompt(*tokens: int, tiles: int = 0) -> Prompt:
    return Prompt(torch.tensor(tokens), torch.zeros(tiles, 3, 2, 2) if tiles else None)


@dataclass
class FakeRunner:
    """Checks what the engine owes a real one: rows are clean, contiguous and as long as it says."""

    rows: int = 4
    tokens: int = 64
    #: A batch larger than this is out of memory.
    memory: int = 100
    #: Prompts that start with one of these tokens break the model.
    poison: set[int] = field(default_factory=set)
    #: Such prompts can be read, but break every decode step that they take part in.
    late_poison: set[int] = field(default_factory=set)
    #: Nothing finite comes out after prompts that start with one of these, from the third token on.
    infinite: set[int] = field(default_factory=set)
    stop_after: dict[int, int] = field(default_factory=dict)
    held: dict[int, list[int]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    visions: list[int] = field(default_factory=list)

    def see(self, prompts: Sequence[Prompt], tiles: int) -> None:
        owners = [prompt for prompt in prompts for _ in range(prompt.unseen)][:tiles]
        if len(owners) > self.memory:
            raise torch.OutOfMemoryError
        if any(int(prompt.input_ids[0]) in self.poison for prompt in owners):
            raise ValueError("an image that cannot be looked at")
        self.visions.append(len(owners))
        for owner in owners:
            owner.features.append(torch.zeros(1))

    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:
        assert prompt.unseen == 0
        content = [int(token) for token in prompt.input_ids]
        if content[0] in self.poison:
            raise ValueError("a prompt that cannot be read")
        held = self.held.setdefault(row, [])
        assert len(held) == start, "the row was not clean"
        held += content[start : start + count]
        self.chunks.append(count)
        return self._next(held)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        if len(tokens) > self.memory:
            raise torch.OutOfMemoryError
        if any(self.held[row][0] in self.late_poison for row in range(len(tokens))):
            raise ValueError("a row that cannot be decoded")
        self.batches.append(len(tokens))
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.held[row]) == length
            self.held[row].append(token)
        return [self._next(self.held[row]) for row in range(len(tokens))]

    def move(self, source: int, target: int, length: int) -> None:
        assert not self.held.get(target), "the row was not clean"
        self.held[target] = self.held[source][:length]
        self.held[source] = []

    def wipe(self, row: int) -> None:
        self.held[row] = []

    def _next(self, held: Sequence[int]) -> int:
        if held[0] in self.infinite and len(held) > len("ab"):
            return NO_TOKEN
        return STOP if len(held) == self.stop_after.get(held[0], -1) else next_token(held)
