"""Request of a study: reason for the examination and requested procedure, as the headers of its objects state them."""

from __future__ import annotations

#: Between two texts of one study.
SEPARATOR = "; "
#: Stands for a text that exceeds the limits of the indexer.
NOT_READ = "[text too long, not read]"
#: Characters of all texts of a study together: each has 64 by PS3.5, few studies have more than two requests.
MAX_CHARACTERS = 1000
FURTHER = "..."


def merged(known: str | None, *received: str) -> str | None:
    """Return the texts of a study with those of an object that it lacks; None: those of its objects were not read.

    Beyond MAX_CHARACTERS the text ends with FURTHER.
    """
    texts = [] if not known else known.split(SEPARATOR)
    lowered = {text.casefold() for text in texts}
    for given in received:
        for part in filter(None, map(str.strip, given.split(SEPARATOR))):
            if part.casefold() not in lowered:
                texts.append(part)
                lowered.add(part.casefold())
    whole = SEPARATOR.join(texts)
    if len(whole) > MAX_CHARACTERS:
        whole = whole[: MAX_CHARACTERS - len(FURTHER)].removesuffix(FURTHER) + FURTHER
    return whole or known


def compared(indication: str | None, requested_procedure: str | None) -> str:
    """Return the text that drafts are compared with; empty without a request."""
    return "\n".join(filter(None, (indication, requested_procedure)))
