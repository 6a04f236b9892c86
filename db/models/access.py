"""Keys of the API, sessions of the page, answers to requests that can be sent twice, the audit log and its sending."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, SmallInteger, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time


class ApiKey(Base):
    """A bearer key of the API; only its SHA-256 is stored."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    key_sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    #: Only studies sent by these calling AE titles; null: all.
    ae_titles: Mapped[list[str] | None]
    created_at: Mapped[dt.datetime] = database_time()
    #: Null if the key is valid until it is revoked.
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]


class PageSession(Base):
    """A session of the page, of a key or of a person; only the SHA-256 of its random text is stored.

    A session of a key has the key's own scopes and ends with it: the columns *scopes* and *ae_titles* are a person's.
    """

    __tablename__ = "page_sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    text_sha256: Mapped[str] = mapped_column(unique=True)
    # CASCADE: a session without its key has no meaning.
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    #: Name of the person at the identity provider; null for a key.
    person: Mapped[str | None]
    scopes: Mapped[list[str]]
    ae_titles: Mapped[list[str] | None]
    created_at: Mapped[dt.datetime] = database_time()
    expires_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime | None]

    __table_args__ = (
        CheckConstraint("(key_id IS NULL) <> (person IS NULL)", name="key_or_person"),
        # Expired sessions are deleted at a login.
        Index("page_sessions_expiry", "expires_at"),
    )


class IdempotentRequest(Base):
    """Answer to a POST with an Idempotency-Key, stored in the transaction of its changes."""

    __tablename__ = "idempotent_requests"

    #: Who sent it: two clients may choose the same key.
    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    #: SHA-256 of method, path and body.
    request_sha256: Mapped[str]
    status: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[dt.datetime] = database_time()

    # Old answers are deleted as new ones are stored.
    __table_args__ = (Index("idempotent_requests_created", "created_at"),)


class CursorSecret(Base):
    """Random secret that signs the cursors of lists, the same for all processes; a migration makes its one row."""

    __tablename__ = "cursor_secret"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    secret: Mapped[str]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class AuditChain(Base):
    """Start of a chain of audit rows: one process writes it. The starts form a chain of their own.

    A trigger refuses UPDATE, DELETE and TRUNCATE, here and in `audit_rows`.
    """

    __tablename__ = "audit_chains"

    #: 1, 2, ... without a gap.
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: Host name and process id.
    process: Mapped[str]
    #: As hashed; the clock of the process, because the hash is computed there.
    started_at: Mapped[dt.datetime]
    #: Last row of the latest earlier chains by number: [sequence, hash]. A later removal of these rows is found.
    heads: Mapped[dict[str, Any]] = mapped_column(JSONB)
    #: Hash of the start before.
    previous: Mapped[str]
    hash: Mapped[str]


class DeletedStudy(Base):
    """A study that was deleted because of its age: whom the rows of the audit log with its id concern."""

    __tablename__ = "deleted_studies"

    study_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str]
    patient_id: Mapped[str]
    issuer_of_patient_id: Mapped[str]
    #: Of its first object: an erasure covers what was received before it.
    received_at: Mapped[dt.datetime]
    deleted_at: Mapped[dt.datetime] = database_time()


class AuditRow(Base):
    """Access of one request to patient data, or a login; stored before the first byte of the response is sent."""

    __tablename__ = "audit_rows"

    # RESTRICT: a start is never deleted.
    chain: Mapped[int] = mapped_column(ForeignKey("audit_chains.number", ondelete="RESTRICT"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: The clock of the process.
    at: Mapped[dt.datetime]
    action: Mapped[str]
    #: HTTP status of the response.
    status: Mapped[int] = mapped_column(SmallInteger)
    #: Kind and name; empty if the caller was not authenticated.
    principal: Mapped[str]
    address: Mapped[str]
    #: Method and template of the path.
    route: Mapped[str]
    #: No foreign key: the row outlives the study.
    studies: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid))
    #: Numbers in the path, names of the filters; never a value that a caller typed.
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
    previous: Mapped[str]
    hash: Mapped[str]

    __table_args__ = (
        # Exports of a period.
        Index("audit_rows_at", "at", postgresql_using="brin"),
        # Readers of a study, for lists: the first study is the one whose page was opened (db.reports.list_marks).
        Index(
            "audit_rows_opened",
            text("(studies[1])"),
            "at",
            postgresql_where=text("route = 'GET /studies/{study_id}' AND status < 400"),
        ),
    )


class AuditSyslog(Base):
    """Sending of the audit log to a repository; its one row exists from the first start of a sender on."""

    __tablename__ = "audit_syslog"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    #: Rows wait from this time on, at the earliest.
    begun_at: Mapped[dt.datetime] = database_time()
    #: Chains before this one are complete and sent; a sender still looks at them now and then.
    first_chain: Mapped[int] = mapped_column(default=1)
    sent_at: Mapped[dt.datetime | None]
    #: Why the last attempt failed, without patient data; empty after a success.
    problem: Mapped[str] = mapped_column(default="")

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class AuditSyslogSent(Base):
    """Last row of a chain that the repository has; the rows after it wait."""

    __tablename__ = "audit_syslog_sent"

    # RESTRICT: a start is never deleted.
    chain: Mapped[int] = mapped_column(
        ForeignKey("audit_chains.number", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    )
    sequence: Mapped[int]
