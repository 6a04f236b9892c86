"""The model as the pipeline uses it, real or fake, and the wait for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

    from worker.model.engine.request import Generation, Request

#: Interval at which the waiting thread checks the engine's progress, in seconds: a small part of any lease.
PROGRESS_POLL_SECONDS = 0.5


class Model(Protocol):
    """A model that serves requests: worker.model.resident_model.ResidentModel, or a fake."""

    @property
    def digest(self) -> str:
        """Digest of the checkpoint's manifest."""

    @property
    def progress(self) -> int:
        """Number of steps the engine has made, for any request."""

    @property
    def prompt_version(self) -> str:
        """Version of the wording that the checkpoint was trained for (worker.prompting.wording)."""

    @property
    def setup(self) -> Mapping[str, str]:
        """Number format, quantization and device, which can change a text: stored with it."""

    @property
    def context_tokens(self) -> int:
        """Maximum tokens of a request, prompt and answer together."""

    def text_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""

    def prompt_tokens(self, question: str, images: Sequence[npt.NDArray[np.uint8]]) -> int:
        """Return the number of tokens of a request before the answer: the chat's own, the images and the question."""

    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return vision tokens for retrieval: [images, layers, patches, channels]."""

    def token_ends(self, generation: Generation) -> list[int]:
        """Return the offset in the answer's text at which each of its tokens ends."""

    def submit(self, request: Request) -> Future[Generation]:
        """Start to generate an answer."""


class ImageEncoder(Protocol):
    """Encoder of the images of a case: a ResidentModel (worker.model.resident_model), or the tower of a checkpoint."""

    @property
    def digest(self) -> str:
        """Digest of the checkpoint's manifest."""

    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return vision tokens for retrieval: [images, layers, patches, channels]."""


def wait(model: Model, future: Future[Generation], on_progress: Callable[[], None]) -> Generation:
    """Wait for the answer; report progress only while the engine steps, so that a hanging engine loses its leases.

    Steps for any request count, not only this one's tokens: a request that waits for a free slot keeps its lease.
    """
    progress = model.progress
    while True:
        try:
            return future.result(timeout=PROGRESS_POLL_SECONDS)
        except TimeoutError:
            if future.done():
                raise
            if model.progress > progress:
                progress = model.progress
                on_progress()
