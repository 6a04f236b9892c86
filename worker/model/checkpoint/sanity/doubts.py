"""Doubts about a checkpoint: each has the name of its check, and refuses the checkpoint unless it is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from db.errors import ConfigurationError
from worker.model.checkpoint.sanity import publication, tokenizer_checks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any


class Doubt(NamedTuple):
    """Name of a check and the sentence on what it found."""

    check: str
    problem: str


def published_doubts(directory: Path, config: Mapping[str, Any], tokenizer: Any, *, large: bool) -> list[Doubt]:
    """Return the doubts about a published directory's config.json, tokenizer and side files."""
    found = [Doubt("publication", problem) for problem in publication.deviations(config, large=large)]
    found += [Doubt("side files", problem) for problem in publication.side_files(directory, config)]
    return found + [Doubt(*problem) for problem in tokenizer_checks.problems(directory, config, tokenizer)]


def refuse(doubts: Sequence[Doubt], *, trusted: bool) -> None:
    """Raise ConfigurationError with the first doubt, unless *trusted*."""
    if not doubts or trusted:
        return
    checks = ", ".join(dict.fromkeys(doubt.check for doubt in doubts))
    raise ConfigurationError(
        f"{doubts[0].problem}; repair the checkpoint, or skip the checks that failed ({checks}) with --trust-unknown"
    )
