"""Tensors of a step that scores options: the mask that keeps them apart, and their log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: The mask's columns are rounded up to a multiple of this: fused attention on CUDA needs a stride divisible by 8.
MASK_ALIGNMENT = 8


def side_by_side(
    options: Sequence[Sequence[int]], start: int, *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the additive mask [1, 1, tokens, columns] of one token at column *start* and *options* behind it.

    All tokens attend to the columns up to *start*, and those of an option to its own earlier ones.
    """
    owners = torch.tensor([number for number, option in enumerate(options) for _ in option])
    count = 1 + len(owners)
    hidden = torch.zeros(count, start + count, dtype=torch.bool)
    hidden[0, start + 1 :] = True
    hidden[1:, start + 1 :] = ~(owners[:, None] == owners).tril()
    aligned = -(-(start + count) // MASK_ALIGNMENT) * MASK_ALIGNMENT
    mask = torch.zeros(count, aligned, dtype=dtype, device=device)[:, : start + count]
    return mask.masked_fill_(hidden.to(device), -torch.inf)[None, None]


def option_log_probs(
    logits: torch.Tensor, options: Sequence[Sequence[int]], stop_tokens: Collection[int]
) -> list[list[float]]:
    """Return the values of ModelRunner.score.

    *logits* [tokens, vocabulary] are those before the options, then those after each of their tokens. Without stop
    tokens an end has no log-probability: 0.
    """
    log_probs = logits.float().log_softmax(-1)
    ends = log_probs[:, sorted(stop_tokens)].logsumexp(-1) if stop_tokens else torch.zeros_like(log_probs[:, 0])
    values, first = [], 1
    for option in options:
        rows = [0, *range(first, first + len(option))]
        values += [log_probs[rows[:-1], list(option)], ends[rows[-1:]]]
        first += len(option)
    # Copied from the device once.
    flat = iter(torch.cat(values).tolist())
    return [[next(flat) for _ in range(len(option) + 1)] for option in options]
