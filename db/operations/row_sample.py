"""Draw rows of a table at random, at the cost of those drawn and not of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from sqlalchemy import func, tablesample, text
from sqlalchemy.orm import aliased

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import Session

    from db.models.base import Base

T = TypeVar("T", bound="Base")
Ts = TypeVarTuple("Ts")

#: Factor by which a share of pages grows that did not have enough rows.
GROWTH = 4


PAGES = text("SELECT pg_relation_size(:name) / current_setting('block_size')::int")


def draw(session: Session, table: type[T], number: int, query: Callable[[type[T]], Select[*Ts]]) -> Sequence[Row[*Ts]]:
    """Return *number* rows, or all if there are fewer, of the query on the table; any row can be drawn.

    They are drawn from random pages of the table, of at least as many pages as rows (TABLESAMPLE SYSTEM): rows of one
    page, stored at the same time, are drawn together more often than by chance.
    """
    share = 100 * number / max(_pages(session, table.__tablename__), 1)
    while True:
        drawn = aliased(table, tablesample(table, func.system(min(share, 100.0))))
        found = session.execute(query(drawn).order_by(func.random()).limit(number)).all()
        if len(found) == number or share >= 100:  # noqa: PLR2004 - per cent
            return found
        share *= GROWTH


def _pages(session: Session, name: str) -> int:
    return session.scalar(PAGES, {"name": name}) or 0
