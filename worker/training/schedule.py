"""One pair of optimisers and one schedule for both stages: warm up, cosine down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP_STEPS = 100
CLIP = 1.0
#: Of the matrices between hidden states, which Muon turns; in its own units.
MATRIX_RATE = 0.02
#: Of all else: embeddings, norms, biases, heads.
RATE = 3e-3
WEIGHT_DECAY = 0.05


class Schedule:
    """Muon over the matrices of *hidden* and AdamW over all else, for *steps* steps.

    On the same images the tower's loss after 300 steps was 0.14 with Muon and 0.24 with AdamW alone, at a quarter
    more time a step. *heads* are read from, not passed on: their matrices are AdamW's.
    """

    def __init__(self, hidden: Sequence[nn.Module], heads: Sequence[nn.Module], *, steps: int) -> None:
        matrices, others = _split(hidden)
        others += [parameter for head in heads for parameter in head.parameters()]
        self._parameters = [*matrices, *others]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY),
            torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True),
        ]
        warm_up = min(WARM_UP_STEPS, steps // 4 + 1)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            done = (step - warm_up) / max(steps - warm_up, 1)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(one, factor) for one in self._optimizers]

    def step(self, loss: torch.Tensor) -> None:
        """Go one step down *loss*."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()


def _split(modules: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the linear layers in *modules*, and every other parameter."""
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    matrices = [layer.get_parameter("weight") for layer in linear]
    known = {id(matrix) for matrix in matrices}
    others = [parameter for module in modules for parameter in module.parameters() if id(parameter) not in known]
    return matrices, others
