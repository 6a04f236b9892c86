"""Interface between the scheduler and a model: encode images, prefill, decode and score rows of the KV cache.

worker.model.engine.transformers_runner implements it; the tests' FakeRunner needs no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from db.errors import PrelimError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from worker.model.inputs import Prompt


#: Returned in place of a token if the logits are not finite: the sequence cannot continue.
NO_TOKEN = -1


class NextToken(NamedTuple):
    """The token with the highest logit, and the natural logarithm of its probability among the allowed tokens."""

    token: int
    log_prob: float


class DeviceLost(PrelimError):
    """Raised when a device no longer computes: nothing can be served until the process is started again."""


def next_tokens(rows: Iterable[Sequence[float]]) -> list[NextToken]:
    """Return the tokens of rows (token, log-probability) read from a device."""
    return [NextToken(int(token), log_prob) for token, log_prob in rows]


class ModelRunner(Protocol):
    """A model over the rows of a KV cache, called from one thread at a time."""

    @property
    def max_sequences(self) -> int:
        """Number of rows of the KV cache: sequences that can run simultaneously."""

    @property
    def max_tokens(self) -> int:
        """Number of tokens in one row: prompt and answer together."""

    def encode_images(self, prompts: Sequence[Prompt], tiles: int) -> None:
        """Run the vision tower over the first *tiles* pending tiles of *prompts*, in one batch."""

    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> NextToken:
        """Prefill *row* with *count* tokens of *prompt*, beginning at *start*; return the token that follows them.

        Its token is NO_TOKEN if the logits are not finite.
        """

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[NextToken]:
        """Decode one step of rows 0..n-1: append *tokens* at positions *lengths*; return the token after each.

        A row whose logits are not finite gets NO_TOKEN; the others are not affected.
        """

    def score(
        self, row: int, prompt: Prompt, options: Sequence[Sequence[int]], stop_tokens: Collection[int]
    ) -> list[list[float]]:
        """Return the log-probability of each token of each of *options* after the prompt, and last of any stop token.

        *row* holds the whole prompt; the tokens of the options are written after it, and each option is computed as if
        it alone followed. Values of logits that are not finite are not finite either.
        """

    def check_devices(self) -> None:
        """Compute something small on each device; raises if one no longer computes."""

    def move_row(self, source: int, target: int, length: int) -> None:
        """Move the first *length* tokens of *source* to the clear row *target*; *source* is clear afterwards."""

    def clear_row(self, row: int) -> None:
        """Overwrite *row* with zeros, so that nothing of its sequence is left."""


def is_lost(runner: ModelRunner) -> bool:
    """Return whether a device of *runner* no longer computes."""
    try:
        runner.check_devices()
    except MemoryError:
        return False
    except Exception as error:  # noqa: BLE001 - drivers and libraries raise many types for a device that is gone
        return "out of memory" not in str(error)
    return False
