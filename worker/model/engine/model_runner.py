"""What the engine asks of a model: images, prompts and tokens through it, by row. No requests, no threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.model.inputs import Prompt


#: In place of a token where the model computed no finite number: the request cannot go on.
NO_TOKEN = -1


class Arithmetic(Protocol):
    """A model over the rows of a cache, used by one thread at a time."""

    @property
    def rows(self) -> int:
        """Requests that can run at once."""

    @property
    def tokens(self) -> int:
        """Tokens that a request can have, prompt and answer together."""

    def see(self, prompts: Sequence[Prompt], tiles: int) -> None:
        """Show the vision tower the next *tiles* images of *prompts*, in one batch."""

    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:
        """Read *count* tokens of *prompt* from *start* on into *row*; returns the token that follows them.

        That token is NO_TOKEN where the model computed no finite number; so in `decode`, for each row by itself.
        """

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """One step of rows 0..n-1: append *tokens* at *lengths*; returns the token that follows each."""

    def move(self, source: int, target: int, length: int) -> None:
        """Give the request in *source*, *length* tokens long, the clean row *target*; leaves *source* clean."""

    def wipe(self, row: int) -> None:
        """Leave nothing of a request in *row*."""
