"""Storage commitment requests (PS3.4 J)."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import Index, Integer, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time


class Commitment(Base):
    """A modality's request to confirm that its objects are safe (storage commitment, PS3.4 J)."""

    __tablename__ = "commitments"

    #: Name of the file that held the request: recording it twice makes one row.
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    #: Association of the request, on which the result may be sent, too.
    association_id: Mapped[str]
    #: Requested pairs of SOP class UID and SOP instance UID.
    requested: Mapped[list[list[str]]] = mapped_column(JSONB)
    received_at: Mapped[dt.datetime]
    #: Time of the next delivery of the result.
    due_at: Mapped[dt.datetime] = database_time()
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    delivered_at: Mapped[dt.datetime | None]
    #: Cause of the last failed delivery.
    detail: Mapped[str | None]
    #: Set when the result can no longer be delivered, with the cause in `detail`.
    given_up_at: Mapped[dt.datetime | None]
    #: When the objects were last read back, and the failed ones: SOP class UID, SOP instance UID, Failure Reason.
    verified_at: Mapped[dt.datetime | None]
    failed: Mapped[list[list[Any]] | None] = mapped_column(JSONB(none_as_null=True))

    __table_args__ = (
        Index("commitments_due", "due_at", postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL")),
        # `prelim trace`: the requests for a study.
        Index("commitments_received", "received_at"),
        # A request that is sent again makes one row and one result; some devices reuse a Transaction UID for others.
        Index("commitments_once", "transaction_uid", "calling_ae_title", text("md5(requested::text)"), unique=True),
    )
