"""Texts known to be wrong: what would be marked if the model wrote them about the images of a study."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from worker.evaluation.sentence_figures import is_right
from worker.findings.labeller import sentences
from worker.model.engine.request import Generation, Timings

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.findings.labeller import Label
    from worker.model.engine.request import Request


class Telling:
    """A *model* that answers each request with a given *text*, of no known probability."""

    def __init__(self, model: Any, text: str) -> None:
        self._model = model
        self._text = text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def submit(self, _request: Request) -> Future[Generation]:
        """Return the text."""
        future: Future[Generation] = Future()
        future.set_result(Generation(self._text, [], "stop", 0, Timings(0, 0, 0, 0, 0)))
        return future

    def token_ends(self, _generation: Generation) -> list[int]:
        """Return no tokens."""
        return []


def wrong_sentence(report: str, wanted: Collection[Label]) -> str:
    """Return the first sentence of another study's *report* that affirms what *wanted* lacks; empty without one."""
    for sentence in sentences(report):
        affirmed = [mention.label for mention in sentence.mentions if mention.label.certainty == "present"]
        if sentence.section == "findings" and any(not is_right(label, wanted) for label in affirmed):
            return sentence.text
    return ""
