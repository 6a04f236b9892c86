"""Inquiries about studies, their answers, and predictions of specialist models."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, literal_column, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, one_of, time_ordered_id
from db.states import INQUIRIES, Calibration, JobKind


class Inquiry(Base):
    """A question about a study, or a choice between diagnoses; a trigger refuses UPDATE.

    Its text is in this table only: never in a Celery argument, a log or a metric. DELETE is not refused: erasing a
    patient must be possible.
    """

    __tablename__ = "inquiries"

    # RESTRICT, here and below: an answer is never deleted as a side effect.
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="RESTRICT"), primary_key=True)
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="RESTRICT"))
    kind: Mapped[str]
    question: Mapped[str | None]
    #: Labels to choose from; without "none of these", which is always one more option.
    options: Mapped[list[str] | None]
    #: True if more than one option may be chosen.
    several: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Name of the API key, operator or rule.
    requested_by: Mapped[str]
    requested_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        one_of("kind", INQUIRIES),
        CheckConstraint(
            f"(kind = '{JobKind.QUESTION}') = (question IS NOT NULL)"
            f" AND (kind = '{JobKind.DIAGNOSIS}') = (options IS NOT NULL)",
            name="question_or_options",
        ),
        # The inquiries of a study, the newest first.
        Index("inquiries_study", "study_id", text("job_id DESC")),
    )


class Answer(Base):
    """The one immutable answer to an inquiry; a trigger refuses UPDATE."""

    __tablename__ = "answers"

    # CASCADE: part of its inquiry.
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("inquiries.job_id", ondelete="CASCADE"), primary_key=True)
    #: Revision of the study whose images it rests on.
    revision: Mapped[int] = mapped_column(Integer)
    #: The job's fence under which it was written.
    fence: Mapped[int]
    #: Text for the reader.
    text: Mapped[str]
    #: Text of the model before the limit of confidence was applied.
    model_text: Mapped[str]
    cannot_tell: Mapped[bool]
    #: Sentence for the reader; empty if the images tell.
    why: Mapped[str]
    #: 0 to 1; NULL: not measured.
    confidence: Mapped[float | None]
    #: Confidence below which the images do not tell.
    min_confidence: Mapped[float | None]
    #: Standing of the confidence.
    calibration: Mapped[str]
    #: db.answers.answer.OptionScore, in the order of the inquiry; NULL for a question, or if none was scored.
    options: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    #: Probability of "none of these"; NULL as `options`.
    none_of_these: Mapped[float | None]
    #: Predictions of specialist models that the model received (db.answers.answer.Prediction).
    predictions: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    #: db.reports.grounds.GroundedFinding, without citations, which are in answer_evidence.
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    #: db.answers.answer.ShownImage, in the model's order.
    images: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    limitations: Mapped[list[str]]
    basis: Mapped[str]
    prompt_version: Mapped[str]
    model_digest: Mapped[str]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        one_of("calibration", Calibration),
        CheckConstraint("cannot_tell = (why <> '')", name="cannot_tell_has_a_reason"),
        CheckConstraint("confidence BETWEEN 0 AND 1 AND none_of_these BETWEEN 0 AND 1", name="probabilities"),
        CheckConstraint("(options IS NULL) = (none_of_these IS NULL)", name="options_have_an_alternative"),
        # Alarm: time of the latest answer.
        Index("answers_created", "created_at"),
        # Recall.
        Index("answers_model", "model_digest", literal_column("job_id").desc()),
        Index("answers_prompt", "prompt_version", literal_column("job_id").desc()),
        Index(
            "answers_specialists",
            "predictions",
            postgresql_using="gin",
            postgresql_ops={"predictions": "jsonb_path_ops"},
        ),
    )


class AnswerEvidence(Base):
    """An earlier case given to the model with the images; a trigger empties its words when the case is erased."""

    __tablename__ = "answer_evidence"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("answers.job_id", ondelete="CASCADE"), primary_key=True)
    #: 1 is the most similar.
    rank: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    case_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("reference_cases.id", ondelete="SET NULL"), index=True)
    #: Cosine similarity, -1 to 1.
    similarity: Mapped[float]
    excerpt: Mapped[str]
    #: Text of the case in the prompt, empty if the model did not receive it.
    quoted: Mapped[str]
    #: Labels by which the case votes.
    labels: Mapped[list[str]]
    #: Its sentences that affirm or deny a finding of the answer: {finding, stance, sentence}.
    cited: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    warnings: Mapped[list[str]]


class SpecialistPrediction(Base):
    """A label or a draft of a specialist model; a trigger refuses UPDATE. It is shown to the model, trains nothing."""

    __tablename__ = "specialist_predictions"

    id: Mapped[uuid.UUID] = time_ordered_id()
    #: Study Instance UID or accession number: it may arrive before the study.
    study: Mapped[str]
    #: The study itself, if the sender named it. CASCADE: of no use without it.
    study_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    version: Mapped[str]
    #: Empty: a draft.
    label: Mapped[str]
    score: Mapped[float | None]
    #: Text of a report about the study; empty: a label.
    draft: Mapped[str] = mapped_column(server_default=text("''"))
    #: Way by which it arrived, and of whom.
    source: Mapped[str]
    received_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        CheckConstraint("study <> ''", name="names_a_study"),
        CheckConstraint("score BETWEEN '-Infinity' AND 'Infinity'", name="score_is_a_number"),
        CheckConstraint("(label = '') <> (draft = '') AND (draft = '' OR score IS NULL)", name="label_or_draft"),
        Index("specialist_predictions_study", "study", postgresql_where=text("study_id IS NULL")),
    )


class SpecialistReport(Base):
    """A structured report that was read: predictions and drafts, and why parts of it were not taken."""

    __tablename__ = "specialist_reports"

    # CASCADE: of no use without its object.
    instance_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True)
    #: Numbers of both.
    predictions: Mapped[int] = mapped_column(Integer)
    drafts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    #: Sentences without values of the report.
    reasons: Mapped[list[str]]
    read_at: Mapped[dt.datetime] = database_time()
