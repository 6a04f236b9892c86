"""One optimiser and one schedule for both stages: warm up, cosine down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP_STEPS = 200
CLIP = 1.0


class Schedule:
    """AdamW over *steps* steps with the greatest rate *rate*."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, steps: int, rate: float) -> None:
        self._parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
        warm_up = min(WARM_UP_STEPS, steps // 4 + 1)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            done = (step - warm_up) / max(steps - warm_up, 1)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, loss: torch.Tensor) -> None:
        """Go one step down *loss*."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self._optimizer.step()
        self._schedule.step()
