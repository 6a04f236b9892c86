"""Who is at the other end of an association."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of an association, as it calls itself and us."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    address: str
