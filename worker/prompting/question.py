"""The prompt for a question about the images, in MedDr's wording; all versions have the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import PermanentFailure, Reason
from worker.prompting import wording
from worker.prompting.plain_text import in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longest question in tokens: about ten sentences. A longer one is refused, because a part would ask something else.
MAX_QUESTION_TOKENS = 256


def question_prompt(modality: str, text: str) -> str:
    """Return the prompt for a question; control tokens and markup are removed from *text*."""
    asked = wording.QUESTION.format(subject=wording.subject_name(modality), question=in_one_line(text))
    return f"{wording.ASSISTANT} {asked}"


def fitted_question(text: str, tokens: Callable[[str], int]) -> str:
    """Return a question in one line; raises PermanentFailure if nothing is left of it or it is too long."""
    line = in_one_line(text)
    if not line:
        raise PermanentFailure(Reason.INVALID_QUESTION, "the question holds no text: send a question")
    if (count := tokens(line)) > MAX_QUESTION_TOKENS:
        detail = f"the question has {count} tokens: shorten it to {MAX_QUESTION_TOKENS}"
        raise PermanentFailure(Reason.INVALID_QUESTION, detail)
    return line
