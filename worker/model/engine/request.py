"""What goes into the engine and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from db.errors import PermanentFailure, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

FinishReason = Literal["stop", "length", "deadline"]


@dataclass(frozen=True, slots=True)
class Request:
    """One user's turn. Images are [height, width, 3] uint8; the checkpoint's chat template wraps the question."""

    question: str
    images: Sequence[npt.NDArray[np.uint8]] = ()
    max_new_tokens: int = 200
    #: Counted from `submit`; what is written by then is the answer.
    deadline_seconds: float = 300.0
    #: Counted from when the request leaves the queue, to the same effect.
    running_seconds: float = math.inf
    #: Told, on the engine's thread, how many tokens there are so far: hand the number on and return.
    on_progress: Callable[[int], None] | None = None


def refusal(request: Request) -> PermanentFailure | None:
    """Why a request's limits will not do: on the engine's thread a wrong one would end everybody's answers."""
    count: object = request.max_new_tokens
    if not isinstance(count, int) or count < 1:
        return PermanentFailure(Reason.NOTHING_ASKED, "a request asks for at least one new token")
    limits: tuple[object, ...] = (request.deadline_seconds, request.running_seconds)
    if any(not isinstance(seconds, int | float) or math.isnan(seconds) for seconds in limits):
        return PermanentFailure(Reason.NO_DEADLINE, "a request's seconds are numbers")
    return None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds; `first_token` and `total` count from `submit`, the others are the durations of their step."""

    queue: float
    vision: float
    prefill: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer. `token_ids` end with the stop token where `finish_reason` is "stop"; `text` does not show it."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    timings: Timings
