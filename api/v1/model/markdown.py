"""The card of the served models as Markdown, for people and for the records of a site."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.v1.model.card import ModelCard, ServedModel

#: Characters with a meaning in Markdown or HTML: a value from a manifest must not become markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def markdown(card: ModelCard) -> str:
    """Return the card as a document."""
    lines = ["# Model card", "", card.intended_use, "", "## Out of scope", "", *_list(card.out_of_scope)]
    lines += ["", "## Limits", "", *_list(card.limits)]
    if not card.models:
        lines += ["", "## Models", "", "No worker is alive: no model is served."]
    for model in card.models:
        lines += ["", f"## Model {plain(model.digest[:12])}", "", *_model(model)]
    return "\n".join(lines) + "\n"


def _list(sentences: tuple[str, ...]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _model(model: ServedModel) -> Iterator[str]:
    yield from _row("Value", "")
    yield "| --- | --- |"
    shown = model.model_dump(mode="json", exclude={"origin", "index", "certificate"})
    for name, value in {**shown, **model.origin}.items():
        yield from _row(name, value)
    if model.index is not None:
        for name, value in model.index.model_dump(mode="json").items():
            yield from _row(f"index {name}", value)
    if model.certificate is not None:
        for name, value in model.certificate.model_dump(mode="json").items():
            yield from _row(f"certificate {name}", value)


def _row(name: str, value: Any) -> Iterator[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    yield f"| {plain(name.replace('_', ' '))} | {plain(text)} |"


def plain(text: str) -> str:
    """Return text without markup and in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
