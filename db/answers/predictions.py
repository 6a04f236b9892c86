"""Predictions of specialist models, labels and drafts: check, store, and find those of a study.

They are shown to the model, and train nothing. One that names a Study Instance UID or an accession number is used only
while exactly one study has it: under two identities of one UID it could be about the other patient.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select, text

from db.answers.answer import Prediction, name_of
from db.errors import InvalidPrediction
from db.models import SpecialistPrediction, Study
from db.reports.versions import QuotedDraft

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

#: Characters of a name, a version, a label, or the name of a study.
MAX_CHARACTERS = 100
#: Characters of a draft: signed reports have up to 8,000.
MAX_DRAFT_CHARACTERS = 8000
#: Predictions of one study that the model receives, the latest first: each is a label in the prompt.
MAX_GIVEN = 64
FIELDS = frozenset(("study", "name", "version", "label", "score", "draft"))
LINE_ENDS = dict.fromkeys(map(ord, "\r\n\t"), " ")


@dataclass(frozen=True, slots=True)
class Received:
    """A prediction as it arrived, a label or a draft; *study* is a Study Instance UID or accession number."""

    study: str
    name: str
    version: str
    label: str = ""
    score: float | None = None
    draft: str = field(default="", repr=False)


def received(values: Any) -> Received:
    """Return a prediction from a JSON object; raises InvalidPrediction, without quoting a value."""
    if not isinstance(values, dict):
        raise InvalidPrediction('a prediction is an object: {"study": ..., "name": ..., "version": ..., "label": ...}')
    if not set(values) <= FIELDS:
        raise InvalidPrediction(f"unknown field: expected {', '.join(sorted(FIELDS))}")
    content = "draft" if "draft" in values else "label"
    texts = {name: _text(values.get(name), name) for name in ("study", "name", "version", content)}
    if content == "draft" and not {"label", "score"}.isdisjoint(values):
        raise InvalidPrediction("a draft has neither label nor score: send them as another prediction")
    score = values.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise InvalidPrediction("the score is no number: send a number, or leave it out")
    if score is not None and not -sys.float_info.max <= score <= sys.float_info.max:
        raise InvalidPrediction("the score is no finite number: send a finite one, or leave it out")
    return Received(**texts, score=score)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidPrediction(f"the {name} is missing: send a text")
    limit = MAX_DRAFT_CHARACTERS if name == "draft" else MAX_CHARACTERS
    if len(value) > limit:
        raise InvalidPrediction(f"the {name} has {len(value)} characters: at most {limit} are allowed")
    # A draft has lines; PostgreSQL stores neither NUL nor surrogates.
    line = value.translate(LINE_ENDS) if name == "draft" else value
    if any(unicodedata.category(character).startswith("C") for character in line):
        lines = "plain text" if name == "draft" else "one line of plain text"
        raise InvalidPrediction(f"the {name} holds a control character: send {lines}")
    return value.strip()


def of_lines(lines: Iterable[str]) -> list[Received]:
    """Return the predictions of JSON lines; raises InvalidPrediction with the number of the line."""
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(received(_json(line)))
        except InvalidPrediction as error:
            raise InvalidPrediction(f"line {number}: {error}: nothing was imported") from None
    return found


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidPrediction(f"not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        # A number of more than 4,300 digits, or lists in lists without end.
        raise InvalidPrediction("not JSON that can be read: a number is too long, or the nesting too deep") from None


def add(session: Session, predictions: Sequence[Received], source: str, study_id: uuid.UUID | None = None) -> int:
    """Store predictions, of the study with *study_id* if the sender named it; return how many are new.

    One that is equal to the latest of its kind adds nothing.
    """
    new = 0
    for one in predictions:
        if not _is_latest(session, one, study_id):
            columns = {name: getattr(one, name) for name in FIELDS}
            session.add(SpecialistPrediction(**columns, source=source, study_id=study_id))
            session.flush()
            new += 1
    return new


def _is_latest(session: Session, one: Received, study_id: uuid.UUID | None) -> bool:
    """Return whether an equal row is stored and no newer one about the study, under any name, differs from it."""
    row = SpecialistPrediction
    label = and_(row.draft == "", row.version == one.version)
    # Of a model the latest draft counts, whatever its version.
    kind = row.draft != "" if one.draft else label
    newest_first = select(row).where(row.name == one.name, kind, _about_same(session, one, study_id))
    content = (one.version, one.score, one.draft)
    for stored in session.scalars(newest_first.order_by(row.id.desc())):
        if name_of(stored.label) != name_of(one.label):
            continue
        if (stored.version, stored.score, stored.draft) != content:
            return False
        if (stored.study, stored.study_id) == (one.study, study_id):
            return True
    return False


def _about_same(session: Session, one: Received, study_id: uuid.UUID | None) -> ColumnElement[bool]:
    """Select the rows about a study that may have arrived: its number may name it as well as its UID."""
    row = SpecialistPrediction
    # With the condition of the index, which is partial.
    number = (Study.accession_number == one.study) & (Study.accession_number != text("''"))
    named = Study.id == study_id if study_id else or_(Study.study_instance_uid == one.study, number)
    columns = select(Study.id, Study.study_instance_uid, Study.accession_number)
    studies = session.execute(columns.where(named)).all()
    names = {one.study, *(study.study_instance_uid for study in studies)}
    names |= {study.accession_number.strip() for study in studies} - {""}
    return or_(row.study_id.in_([study.id for study in studies]), and_(row.study_id.is_(None), row.study.in_(names)))


def of_study(session: Session, study_id: uuid.UUID) -> list[Prediction]:
    """Return the labels predicted for a study: of each model, version and label the latest; the oldest first.

    Labels that differ in case or spaces are one.
    """
    row = SpecialistPrediction
    about = _about(session, session.get_one(Study, study_id))
    rows = session.scalars(select(row).where(about, row.draft == "").order_by(row.id.desc())).all()
    latest: dict[tuple[str, str, str], SpecialistPrediction] = {}
    for one in rows:
        latest.setdefault((one.name, one.version, name_of(one.label)), one)
    given = sorted(list(latest.values())[:MAX_GIVEN], key=lambda one: one.id)
    return [Prediction(one.name, one.version, one.label, one.score, one.source) for one in given]


def arrived_after(session: Session, study: Study, moment: dt.datetime | None) -> int:
    """Return the number of labels about a study that arrived after *moment*; 0 without one."""
    row = SpecialistPrediction
    if moment is None:
        return 0
    late = (
        select(func.count()).select_from(row).where(row.received_at > moment, row.draft == "", _about(session, study))
    )
    return session.scalar(late) or 0


def drafts_of_study(session: Session, study_id: uuid.UUID) -> list[QuotedDraft]:
    """Return the drafts for a study, of each model the latest; the latest first."""
    row = SpecialistPrediction
    about = _about(session, session.get_one(Study, study_id))
    rows = session.scalars(select(row).where(about, row.draft != "").order_by(row.id.desc()).limit(MAX_GIVEN))
    latest: dict[str, SpecialistPrediction] = {}
    for one in rows:
        latest.setdefault(one.name, one)
    return [QuotedDraft(one.name, one.version, one.source, one.draft) for one in latest.values()]


def draft_texts(session: Session, study_instance_uid: str) -> list[str]:
    """Return the text of each draft that names a Study Instance UID, or a study under it in another way."""
    row, of_uid = SpecialistPrediction, Study.study_instance_uid == study_instance_uid
    numbers = select(Study.accession_number).where(of_uid, Study.accession_number != "")
    about = or_(
        row.study == study_instance_uid, row.study_id.in_(select(Study.id).where(of_uid)), row.study.in_(numbers)
    )
    return list(session.scalars(select(row.draft).where(row.draft != "", about)))


def _about(session: Session, study: Study) -> ColumnElement[bool]:
    row = SpecialistPrediction
    unnamed = row.study_id.is_(None)
    about = [row.study_id == study.id]
    if _count(session, Study.study_instance_uid == study.study_instance_uid) == 1:
        about.append(and_(unnamed, row.study == study.study_instance_uid))
    number = study.accession_number.strip()
    # With the condition of the index, which is partial.
    same = (Study.accession_number == study.accession_number) & (Study.accession_number != text("''"))
    if number and _count(session, same) == 1:
        about.append(and_(unnamed, row.study == number))
    return or_(*about)


def _count(session: Session, condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(Study).where(condition)) or 0
