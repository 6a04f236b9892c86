"""Restrict keys to AE titles; store sessions of the page and answers to requests that can be sent twice."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

INDEXES = {"studies_ae_title_newest": "studies (calling_ae_title, first_received_at DESC, id DESC)"}


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS ae_titles text[]")
    op.create_table(
        "page_sessions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("text_sha256", sa.Text, nullable=False, unique=True),
        sa.Column("key_id", sa.Uuid, sa.ForeignKey("api_keys.id", ondelete="CASCADE")),
        sa.Column("person", sa.Text),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("ae_titles", ARRAY(sa.Text)),
        _created(),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("(key_id IS NULL) <> (person IS NULL)", name="key_or_person"),
        if_not_exists=True,
    )
    # Not by the column: that would not be IF NOT EXISTS, and the migration is repeated after an interruption.
    op.create_index("ix_page_sessions_key_id", "page_sessions", ["key_id"], if_not_exists=True)
    op.create_index("page_sessions_expiry", "page_sessions", ["expires_at"], if_not_exists=True)
    op.create_table(
        "idempotent_requests",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("request_sha256", sa.Text, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("answer", JSONB, nullable=False),
        _created(),
        if_not_exists=True,
    )
    op.create_index("idempotent_requests_created", "idempotent_requests", ["created_at"], if_not_exists=True)
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
    op.drop_table("idempotent_requests")
    op.drop_table("page_sessions")
    op.drop_column("api_keys", "ae_titles")


def _created() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp())
