"""Write a stored report again, from what its prompt was made of, and compare the two texts."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.reports.storable import storable_text
from worker.findings.labeller import present, sentences
from worker.model.engine.request import Request
from worker.model.port import wait
from worker.pipeline.part import sections_of
from worker.prompting.fitting import prompt_digest
from worker.prompting.report import report_prompt
from worker.prompting.report_text import joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from worker.findings.labeller import Label
    from worker.model.port import Model
    from worker.prompting.report import QuotedCase, SpecialistDraft
    from worker.prompting.wording import Version

    #: Findings and impression.
    Texts = tuple[str, str]


@dataclass(frozen=True, slots=True)
class UsedPrompt:
    """Ingredients of the prompt of a part, and its digest in hexadecimal."""

    version: Version
    modality: str
    body_part: str
    cases: Sequence[QuotedCase]
    images: Sequence[npt.NDArray[np.uint8]]
    max_new_tokens: int
    digest: str
    draft: SpecialistDraft | None = None

    @property
    def text(self) -> str:
        """The prompt, rebuilt."""
        return report_prompt(self.modality, self.body_part, self.cases, draft=self.draft, version=self.version)

    @property
    def complete(self) -> bool:
        """True if it is rebuilt word for word."""
        return prompt_digest(self.text) == self.digest


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a stored report: its text, and its prompt; None if the program wrote the text."""

    name: str
    text: str
    prompt: UsedPrompt | None


def write_again(parts: Sequence[StoredPart], model: Model, *, deadline_seconds: float) -> Texts:
    """Return findings and impression, written again by *model*; raises Outcome if it cannot."""
    texts = [part.text if part.prompt is None else _generate(part.prompt, model, deadline_seconds) for part in parts]
    return joined(sections_of([part.name for part in parts], texts))


def _generate(prompt: UsedPrompt, model: Model, deadline_seconds: float) -> str:
    request = Request(prompt.text, prompt.images, prompt.max_new_tokens, deadline_seconds)
    return storable_text(wait(model, model.submit(request), lambda: None).text)


def differences(before: Texts, after: Texts) -> Iterator[str]:
    """Yield a line for each sentence and finding that only one text has: `- ` the first, `+ ` the second."""
    for name, old, new in zip(("findings", "impression"), before, after, strict=True):
        lines = [line for line in difflib.ndiff(_lines(old), _lines(new)) if line[0] in "+-"]
        yield from (f"{line[:2]}{name}: {line[2:]}" for line in lines)
    old_findings, new_findings = (present("\n".join(texts)) for texts in (before, after))
    yield from (f"- finding: {_phrase(label)}" for label in sorted(old_findings - new_findings))
    yield from (f"+ finding: {_phrase(label)}" for label in sorted(new_findings - old_findings))


def _lines(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(text)] or text.split("\n")


def _phrase(label: Label) -> str:
    return " ".join(filter(None, (label.size, label.side, label.zone, label.finding)))
