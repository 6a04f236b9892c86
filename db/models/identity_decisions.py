"""Decisions of people about the identity of a study."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, time_ordered_id


class IdentityDecision(Base):
    """One decision, never changed: the audit trail, and the identities that a study also answers to."""

    __tablename__ = "identity_decisions"

    id: Mapped[uuid.UUID] = time_ordered_id()
    # CASCADE: erasing a study erases its patient's attributes here.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    #: A code of db.studies.identity.decisions.Decision.
    decision: Mapped[str]
    #: Fields that differed.
    differs: Mapped[list[str]]
    #: The identity that is not right, by field, if objects of it belong to the study all the same; empty otherwise.
    former: Mapped[dict[str, Any]]
    #: "user NAME" at the command line, "key NAME" at the API.
    decided_by: Mapped[str]
    decided_at: Mapped[dt.datetime] = database_time()
