"""Sentences of reports with their findings, and what each finding rests on."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Integer, SmallInteger
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, one_of
from db.states import Verdict


class Sentence(Base):
    """A sentence of a report: offsets in one of its two texts, so that no word is stored twice."""

    __tablename__ = "report_sentences"

    # CASCADE, here and below: part of its report.
    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: From 1, in the order of the text.
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    #: Column of the report that the offsets count in.
    section: Mapped[str]
    start: Mapped[int] = mapped_column(Integer)
    end: Mapped[int] = mapped_column(Integer)

    __table_args__ = (one_of("section", ("findings", "impression")),)


class Finding(Base):
    """A finding that a sentence states; one on both sides has a row for each."""

    __tablename__ = "report_findings"

    report_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    #: From 1, within the report.
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    sentence: Mapped[int] = mapped_column(SmallInteger)
    name: Mapped[str]
    side: Mapped[str]
    zone: Mapped[str]
    size: Mapped[str]
    certainty: Mapped[str]
    start: Mapped[int] = mapped_column(Integer)
    end: Mapped[int] = mapped_column(Integer)
    verdict: Mapped[str]
    #: db.reports.grounds.InImage; NULL: not measurable.
    in_image: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    log_prob: Mapped[float | None]

    __table_args__ = (
        ForeignKeyConstraint(
            ["report_id", "sentence"], ["report_sentences.report_id", "report_sentences.ordinal"], ondelete="CASCADE"
        ),
        one_of("certainty", ("present", "uncertain", "absent")),
        one_of("verdict", Verdict),
    )


class Citation(Base):
    """A sentence of a case in the report's evidence that affirms or denies a finding."""

    __tablename__ = "report_citations"

    report_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    finding: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    rank: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    stance: Mapped[str] = mapped_column(primary_key=True)
    #: Empty once the case is erased: a trigger on report_evidence.
    sentence: Mapped[str]

    __table_args__ = (
        ForeignKeyConstraint(
            ["report_id", "finding"], ["report_findings.report_id", "report_findings.ordinal"], ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["report_id", "rank"], ["report_evidence.report_id", "report_evidence.rank"], ondelete="CASCADE"
        ),
        one_of("stance", ("affirms", "denies")),
    )


class Omission(Base):
    """A finding that the image shows and the text does not mention."""

    __tablename__ = "report_omissions"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: From 1, in the order of the labels of the reference set.
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    name: Mapped[str]
    side: Mapped[str]
    #: db.reports.grounds.InImage.
    in_image: Mapped[dict[str, Any]]
