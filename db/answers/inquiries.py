"""Inquiries about studies: check and queue them, and list them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from db.answers.answer import NONE_OF_THESE, Choice, Question, is_none_of_these, name_of
from db.errors import InvalidInquiry, NotPossible, Reason
from db.models import Inquiry, Job, Study
from db.states import OPEN_JOBS, JobKind, JobState, StudyState
from db.studies.priority import HIGH, effective_queued_at

if TYPE_CHECKING:
    import datetime as dt
    import uuid

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import Session

#: Characters: the longest question of VQA-RAD has 161, and the prompt needs its tokens for the images.
MAX_QUESTION_CHARACTERS = 1000
MAX_LABEL_CHARACTERS = 100
#: Each option is a row of a batch in the engine.
MAX_OPTIONS = 64
#: Inquiries of a study in a list.
MAX_LISTED = 100
#: Open inquiries of one study: more are a program that repeats itself.
MAX_OPEN = 32
#: Reasons of studies whose images no model reads.
_UNREADABLE = (Reason.NO_IMAGES, Reason.IDENTITY_REFUSED)


@dataclass(frozen=True, slots=True)
class AskedInquiry:
    """An inquiry with the state of its job."""

    id: uuid.UUID
    study_id: uuid.UUID
    kind: JobKind
    asked: Question | Choice
    requested_by: str
    requested_at: dt.datetime
    state: JobState
    #: Newest revision whose images it looks at.
    revision: int
    attempt: int
    reason: str | None
    detail: str | None

    @property
    def words(self) -> str:
        """The question, or the diagnoses to choose from."""
        return self.asked.text if isinstance(self.asked, Question) else ", ".join(self.asked.options)


def ask(
    session: Session, study: Study, asked: Question | Choice, requested_by: str, *, by_rule: bool = False
) -> uuid.UUID:
    """Queue the job of an inquiry about a locked study; return the id of both.

    Its class is at least HIGH: ahead of routine reports, behind STAT and running work; *by_rule* it is that of the
    study. Raises InvalidInquiry for a text that cannot be asked, NotPossible if the images of the study are not
    complete or not readable.
    """
    asked = checked(asked)
    if not by_rule:
        require_askable(session, study)
    kind = JobKind.QUESTION if isinstance(asked, Question) else JobKind.DIAGNOSIS
    level = study.priority if by_rule else max(study.priority, HIGH)
    urgent_at = effective_queued_at(level)
    job = Job(study_id=study.id, revision=study.revision, kind=kind, priority=level, urgent_at=urgent_at)
    session.add(job)
    session.flush()
    content = _columns(asked)
    session.add(Inquiry(job_id=job.id, study_id=study.id, kind=kind, requested_by=requested_by, **content))
    session.flush()
    return job.id


def _columns(asked: Question | Choice) -> dict[str, object]:
    if isinstance(asked, Question):
        return {"question": asked.text}
    return {"options": list(asked.options), "several": asked.several}


def checked(asked: Question | Choice) -> Question | Choice:
    """Return an inquiry with its texts stripped; raises InvalidInquiry, without quoting them."""
    if isinstance(asked, Question):
        return Question(_checked(asked.text, "question", MAX_QUESTION_CHARACTERS))
    labels = [_checked(label, "option", MAX_LABEL_CHARACTERS) for label in asked.options]
    if not 1 < len(labels) <= MAX_OPTIONS:
        raise InvalidInquiry(f"{len(labels)} options: expected 2 to {MAX_OPTIONS}")
    names = {name_of(label) for label in labels}
    if len(names) < len(labels):
        raise InvalidInquiry("two options are equal: each label must differ from the others")
    for number, label in enumerate(labels, start=1):
        if is_none_of_these(label):
            raise InvalidInquiry(f"option {number} means {NONE_OF_THESE!r}, which is always added: leave it out")
    return Choice(labels, several=asked.several)


def _checked(text: str, name: str, max_characters: int) -> str:
    text = text.strip()
    if not text:
        raise InvalidInquiry(f"the {name} is empty: send a text")
    if len(text) > max_characters:
        raise InvalidInquiry(f"the {name} has {len(text)} characters: at most {max_characters} are allowed")
    # Cc, Cs and so on: control and format characters, surrogates, unassigned and private ones.
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise InvalidInquiry(f"the {name} holds a control character, such as a line break: send one line of plain text")
    return text


def locked_study(session: Session, job_id: uuid.UUID) -> Study:
    """Return the study of an inquiry, locked; raises NoResultFound if the job has none."""
    query = select(Study).join(Inquiry, Inquiry.study_id == Study.id).where(Inquiry.job_id == job_id)
    return session.scalars(query.with_for_update(of=Study)).one()


def require_askable(session: Session, study: Study) -> None:
    """Raise NotPossible if a locked study cannot be asked about now."""
    _refuse_unready(study)
    _refuse_flood(session, study)


def _refuse_unready(study: Study) -> None:
    """Raise NotPossible unless the images of the study are complete and of one patient."""
    if study.state == StudyState.RECEIVING:
        raise NotPossible("the study is still receiving images: ask again when it is settled")
    if study.state == StudyState.HELD:
        raise NotPossible("the study is held for a person's decision about its identity: decide first")
    if study.reason in _UNREADABLE:
        raise NotPossible(f"no image of the study can be read: {study.detail} ({study.reason})")
    if study.reason == Reason.STORE_ONLY:
        raise NotPossible(f"the study is {study.detail}")


def _refuse_flood(session: Session, study: Study) -> None:
    waiting = select(func.count()).select_from(Job).where(Job.study_id == study.id, Job.kind != JobKind.REPORT)
    if (session.scalar(waiting.where(Job.state.in_(OPEN_JOBS))) or 0) >= MAX_OPEN:
        raise NotPossible(f"{MAX_OPEN} inquiries about the study are open: wait for their answers")


def content(session: Session, job_id: uuid.UUID) -> Question | Choice:
    """Return the content of the inquiry of a job; raises NoResultFound if the job has none."""
    return _content(session.scalars(select(Inquiry).where(Inquiry.job_id == job_id)).one())


def _content(row: Inquiry) -> Question | Choice:
    if row.question is not None:
        return Question(row.question)
    return Choice(row.options or [], several=row.several)


def find(session: Session, inquiry_id: uuid.UUID) -> AskedInquiry | None:
    """Return an inquiry; None if no inquiry has this id."""
    row = session.execute(_asked().where(Inquiry.job_id == inquiry_id)).one_or_none()
    return None if row is None else _line(row)


def of_study(session: Session, study_id: uuid.UUID, kind: JobKind | None = None) -> list[AskedInquiry]:
    """Return the latest inquiries about a study, of one kind if given, the newest first."""
    query = _asked().where(Inquiry.study_id == study_id)
    query = query if kind is None else query.where(Inquiry.kind == kind)
    return [_line(row) for row in session.execute(query.order_by(Inquiry.job_id.desc()).limit(MAX_LISTED))]


def _asked() -> Select[Inquiry, Job]:
    return select(Inquiry, Job).join(Job, Job.id == Inquiry.job_id)


def _line(found: Row[Inquiry, Job]) -> AskedInquiry:
    row, job = found
    return AskedInquiry(
        id=row.job_id,
        study_id=row.study_id,
        kind=JobKind(row.kind),
        asked=_content(row),
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        state=JobState(job.state),
        revision=job.revision,
        attempt=job.attempt,
        reason=job.reason,
        detail=job.detail,
    )
