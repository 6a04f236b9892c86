"""Response bodies about what readers do: feedback, holds, events; and lists of report versions."""

import datetime as dt
import uuid
from typing import Literal

from pydantic import Field

from api.v1.body import Banner, Body
from db.reports.versions import BANNER
from db.states import FeedbackKind


class Event(Body):
    """Event in the life of a study."""

    kind: str = Field(description="received, state, report, feedback, hold or release.")
    detail: str = Field(description="State of the study, version of the report, or kind of the feedback.")
    author: str = Field(description="Kind and name of the caller; empty for Prelim itself.")
    at: dt.datetime


class Hold(Body):
    """A hold of a study by a person: its drafts cannot be accepted."""

    reason: str
    held_by: str
    held_at: dt.datetime
    released_by: str | None
    released_at: dt.datetime | None


class Act(Body):
    """An act of a reader, as stored; without the reader's words."""

    id: uuid.UUID
    study_id: uuid.UUID
    version: int = Field(description="Version of the report; 0: an impression before there was one.")
    kind: FeedbackKind
    sentence: int | None
    author: str
    at: dt.datetime


class StoredAct(Act):
    """An act of a reader with the reader's words."""

    text: str


class ReportVersion(Body):
    """A version of a report, without its text."""

    version: int
    revision: int = Field(description="Revision of the study that it covers.")
    basis: str
    created_at: dt.datetime
    model_digest: str
    prompt_version: str


class DiffPart(Body):
    """Words of a section that are in both versions, or in one of them only."""

    section: Literal["findings", "impression"]
    change: Literal["equal", "removed", "added"]
    text: str


class ReportDiff(Body):
    """Difference of two versions of a report."""

    banner: Banner = BANNER
    earlier: int
    later: int
    parts: list[DiffPart] = Field(description="In the order of the text; words apart from spaces.")


class UsedReport(Body):
    """A version of a report that used a case, model or prompt."""

    study_id: uuid.UUID
    version: int
    is_current: bool
    created_at: dt.datetime
    model_digest: str
    prompt_version: str


class ReportPage(Body):
    """One page of a recall, the newest report first."""

    reports: list[UsedReport]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")
