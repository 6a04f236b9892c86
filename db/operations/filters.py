"""Conditions and orders of the work list."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    UUID,
    ColumnElement,
    and_,
    any_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import REGCONFIG

from db.models import Job, Study
from db.states import OPEN_JOBS, StudyState
from db.studies.visibility import visible

if TYPE_CHECKING:
    import datetime as dt
    import uuid

    from sqlalchemy.orm import Session

#: Studies that are sorted faster than they are met in the order of a list.
FEW = 5000
#: Words of a description are looked up unless at least one in FREQUENT of the SAMPLE newest studies has them.
SAMPLE, FREQUENT = 400, 20
#: States of a study that a person must look at.
ATTENTION = (StudyState.HELD, StudyState.FAILED)


class Position(NamedTuple):
    """End of a page of the work list."""

    received_at: dt.datetime
    study_id: uuid.UUID
    priority: int = 0


class Sort(enum.StrEnum):
    """Order of the work list."""

    #: The newest first.
    ARRIVAL = "arrival"
    #: The longest received first.
    WAITING = "waiting"
    #: The highest priority first, and of one priority the newest.
    URGENCY = "urgency"

    def columns(self, study: Any) -> tuple[Any, ...]:
        """Return the columns of the order, all in one direction."""
        time = study.first_received_at, study.id
        return (study.priority, *time) if self is Sort.URGENCY else time

    def order(self, study: Any) -> list[Any]:
        """Return the terms of ORDER BY."""
        ascending = self is Sort.WAITING
        return [column.asc() if ascending else column.desc() for column in self.columns(study)]

    def after(self, position: Position) -> ColumnElement[bool]:
        """Return the condition on studies behind *position*."""
        start = (position.priority, *position[:2]) if self is Sort.URGENCY else position[:2]
        own, other = tuple_(*self.columns(Study)), tuple_(*start)
        return own > other if self is Sort.WAITING else own < other


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on the studies of a work list; None for any. *state* is the displayed one."""

    state: str | None = None
    modality: str | None = None
    reason: str | None = None
    received_since: dt.datetime | None = None
    received_before: dt.datetime | None = None
    body_part: str | None = None
    ae_title: str | None = None
    #: As in DICOM: YYYYMMDD.
    study_date_from: str | None = None
    study_date_to: str | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    #: Beginnings of words of the description, all of which it must have.
    description: str | None = None
    #: Lowest priority.
    priority: int | None = None
    #: True: failed, held, or with a warning or a critical finding in the checks of its current report; False: others.
    attention: bool | None = None
    #: True: reported, and no person has opened the current version; False: others.
    unread: bool | None = None
    #: Calling AE titles that must have sent every object of a study that the caller may see; None: all.
    ae_titles: frozenset[str] | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions in SQL."""
        equal = {
            Study.modality: self.modality,
            Study.reason: self.reason,
            Study.body_part: self.body_part,
            Study.calling_ae_title: self.ae_title,
            Study.patient_id: self.patient_id,
            Study.study_instance_uid: self.study_instance_uid,
        }
        found = visible(self.ae_titles) + [column == value for column, value in equal.items() if value is not None]
        found += [] if self.state is None else [_is_displayed_as(self.state)]
        return found + self._ranges() + self._words() + self._flags()

    def _ranges(self) -> list[ColumnElement[bool]]:
        found = []
        if self.received_since is not None:
            found.append(Study.first_received_at >= self.received_since)
        if self.received_before is not None:
            found.append(Study.first_received_at < self.received_before)
        if self.study_date_from is not None:
            found.append(Study.study_date >= self.study_date_from)
        if self.study_date_to is not None:
            # An empty date is before all others.
            found.append(and_(Study.study_date <= self.study_date_to, Study.study_date > literal("")))
        if self.priority is not None:
            found.append(Study.priority >= self.priority)
        return found

    def _words(self) -> list[ColumnElement[bool]]:
        found = []
        if self.accession_number is not None:
            # With the condition of the index, which is partial.
            found.append(and_(Study.accession_number == self.accession_number, Study.accession_number != ""))
        if self.description is not None:
            found.append(_has_words(self.description))
        return found

    def _flags(self) -> list[ColumnElement[bool]]:
        flags = [(self.attention, _needs_attention), (self.unread, _is_unread)]
        return [made() if wanted else ~made() for wanted, made in flags if wanted is not None]


#: Of the list of all studies.
NO_FILTERS = Filters()


def conditions_of_few(session: Session, filters: Filters) -> list[ColumnElement[bool]] | None:
    """Return the conditions with the studies in place of the words of their description, if there are few.

    PostgreSQL takes every beginning of a word for frequent: to find a few studies it would read all of them in the
    order of the list. Words that are frequent among the newest studies are met soon in that order.
    """
    if filters.description is None or _are_frequent(session, filters.description):
        return None
    found = session.scalars(select(Study.id).where(_has_words(filters.description)).limit(FEW + 1)).all()
    if len(found) > FEW:
        return None
    return [Study.id == any_(literal(found, ARRAY(UUID))), *replace(filters, description=None).conditions()]


def _are_frequent(session: Session, description: str) -> bool:
    newest = select(Study.study_description).order_by(Study.first_received_at.desc(), Study.id.desc()).limit(SAMPLE)
    sample = newest.subquery()
    count = select(func.count()).select_from(sample).where(_has_words(description, sample.c.study_description))
    return (session.scalar(count) or 0) * FREQUENT >= SAMPLE


def _has_words(description: str, column: Any = Study.study_description) -> ColumnElement[bool]:
    terms = " & ".join(f"{word}:*" for word in words(description))
    simple = literal("simple", REGCONFIG)
    return func.to_tsvector(simple, column).op("@@")(func.to_tsquery(simple, terms))


def words(text: str) -> list[str]:
    """Return the letters and digits of *text* as words, for a search by beginnings; at least one empty word."""
    plain = "".join(char if char.isalnum() else " " for char in text)
    return plain.split()


def displayed_state() -> ColumnElement[str]:
    """State of a study as displayed: that of its job while it is open."""
    waiting = and_(Study.state == StudyState.SETTLED, Job.state.in_(OPEN_JOBS))
    return case((waiting, Job.state), else_=Study.state)


def _is_displayed_as(state: str) -> ColumnElement[bool]:
    """Compare columns and not the CASE, whose selectivity the planner cannot estimate."""
    if state in OPEN_JOBS:
        return and_(Study.state == StudyState.SETTLED, Job.state == state)
    if state == StudyState.SETTLED:
        return and_(Study.state == state, func.coalesce(Job.state.not_in(OPEN_JOBS), true()))
    return Study.state == state


def _needs_attention() -> ColumnElement[bool]:
    # With literals, as in the condition of the index: a parameter would hide it from a prepared statement's plan.
    return or_(Study.is_marked, Study.state.in_([literal_column(f"'{state}'") for state in ATTENTION]))


def _is_unread() -> ColumnElement[bool]:
    reported = Study.state == literal_column(f"'{StudyState.REPORTED}'")
    return and_(reported, Study.opened_version < Study.report_version)
