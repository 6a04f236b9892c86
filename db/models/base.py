"""Base class of the tables and the parts that several of them share."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, LargeBinary, Text, Uuid, any_, cast, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import ColumnElement


class Base(DeclarativeBase):
    """Column types by Python type."""

    type_annotation_map = {  # noqa: RUF012 - required by SQLAlchemy
        str: Text,
        int: BigInteger,
        dt.datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        uuid.UUID: Uuid,
        bytes: LargeBinary,
    }


def database_time() -> Any:
    """Column filled with the time of the database's clock."""
    return mapped_column(server_default=func.clock_timestamp())


def any_of(texts: Collection[str]) -> ColumnElement[bool]:
    """Any number of texts as one parameter, to compare with: a statement takes at most 65,535 parameters."""
    return any_(cast(list(texts), ARRAY(Text)))


def time_ordered_id() -> Any:
    """Primary key made by the database, in order of time: new rows stay together in an index, which saves WAL."""
    return mapped_column(primary_key=True, default=func.uuidv7())


def given(row: Base) -> dict[str, Any]:
    """Return the values given to a new *row*, by column, for INSERT ... ON CONFLICT."""
    return {name: value for name, value in vars(row).items() if name in row.__table__.columns}


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Constraint on the values of a text column."""
    return CheckConstraint(f"{column} IN ({_quoted(values)})", name=f"{column}_known")


def ends_with_reason(states: Iterable[str]) -> CheckConstraint:
    """Constraint on a study or job: one that ended in one of *states*, without a report, has its reason."""
    return CheckConstraint(f"state NOT IN ({_quoted(states)}) OR reason IS NOT NULL", name="end_has_a_reason")


def _quoted(values: Iterable[str]) -> str:
    """Comma-separated SQL literals of constants without quotes."""
    return ", ".join(f"'{value}'" for value in values)
