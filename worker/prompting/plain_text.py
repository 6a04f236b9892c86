"""Text from outside in a form that a prompt may hold: no markup, control tokens or invisible characters."""

from __future__ import annotations

import html
import re
import unicodedata

from worker.prompting.hostile_text import (
    CONTROL_TOKEN,
    DISGUISED,
    FORGED_ENTRY,
    INSTRUCTION,
    LOOKALIKES,
    MARKUP,
)

#: Passes that undo nested escapes and markup: `&amp;lt;b&amp;gt;`.
MAX_PASSES = 4
#: Stands for a control token; any other character that is never part of a sentence would do.
CONTROL = "\ufffc"
#: Characters of a diagnosis of another case; a longer one is no diagnosis.
MAX_LABEL = 100

#: Characters that would end the fence around a quotation, or begin another.
FENCE = str.maketrans(
    {"[": "(", "]": ")", "{": "(", "}": ")", "<": " less than ", ">": " more than ", "|": " ", "`": "'", '"': "'"}
)
#: Inside a sentence that the author's editor has wrapped.
_WRAPPED = re.compile(r"[^\S\n]*\n[^\S\n]*(?=[a-z])")
_SENTENCE_END = re.compile(r"[.!?]\s")


def plain(text: str) -> str:
    """Return *text* without markup and invisible characters, and with CONTROL for each control token."""
    for _ in range(MAX_PASSES):
        before = text
        text = unicodedata.normalize("NFKC", html.unescape(text))
        text = "".join(" " if c != "\n" and c.isspace() else c for c in text if c.isspace() or _is_visible(c))
        text = MARKUP.sub(" ", CONTROL_TOKEN.sub(f"\n{CONTROL}\n", text))
        if text == before:
            break
    return _WRAPPED.sub(" ", text)


def _is_visible(character: str) -> bool:
    """Return whether it is no control, format, private or unassigned character (Unicode category C)."""
    return unicodedata.category(character)[0] != "C"


def is_hostile(sentence: str) -> bool:
    """Return whether a sentence of `plain` text addresses a model, or imitates a turn or an entry of a prompt."""
    if CONTROL in sentence or any(words.search(sentence) for words in (FORGED_ENTRY, INSTRUCTION, DISGUISED)):
        return True
    return INSTRUCTION.search(sentence.translate(LOOKALIKES)) is not None


def in_one_line(text: str) -> str:
    """Return the plain text of a question or an option; control tokens are removed."""
    return " ".join(plain(text).replace(CONTROL, " ").split())


def as_label(text: str) -> str:
    """Return a diagnosis that stands in a list of a prompt; empty if *text* is none: too long, sentences, an order.

    Commas separate the diagnoses of such a list, so that one within becomes a semicolon.
    """
    line = in_one_line(text).rstrip(".")
    if len(line) > MAX_LABEL or _SENTENCE_END.search(line) or is_hostile(plain(text)):
        return ""
    return line.replace(",", ";")
