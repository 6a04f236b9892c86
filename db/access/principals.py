"""Callers of the API: who they are, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Permissions; each route requires one.
SCOPES = ("worklist", "reports", "images", "questions", "predictions", "feedback", "metrics", "identity", "admin")
#: The scope of keys of earlier releases, and the scopes that it stands for.
READ = "read"
READS = ("worklist", "reports", "images")
#: Scopes of a person who reads at the page.
READER = (*READS, "questions", "feedback")


@dataclass(frozen=True, slots=True)
class Principal:
    """Caller of the API: the holder of a key, or a person known to the identity provider.

    *name* is stored beside decisions and in the audit log. *ae_titles* are the calling AE titles that must
    have sent every object of a study that it may see; None: all.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    ae_titles: frozenset[str] | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def expanded(scopes: Iterable[str]) -> frozenset[str]:
    """Return the scopes with those that `read` stands for."""
    given = frozenset(scopes)
    return given | frozenset(READS) if READ in given else given
