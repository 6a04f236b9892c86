"""Store feedback of readers, holds and events of studies; index the filters of the work list and of recall."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

INDEXES = {
    "studies_modality_newest": "studies (modality, first_received_at DESC, id DESC)",
    "studies_body_part_newest": "studies (body_part, first_received_at DESC, id DESC)",
    "studies_urgency": "studies (priority DESC, first_received_at DESC, id DESC)",
    "studies_patient": "studies (patient_id) WHERE patient_id <> ''",
    "studies_date": "studies (study_date)",
    "studies_description": "studies USING gin (to_tsvector('simple'::regconfig, study_description))",
    "reports_model": "reports (model_digest, id DESC)",
    "reports_prompt": "reports (prompt_version, id DESC)",
}
#: Table, event, condition on the row, and kind, detail and author of the event.
EVENTS = (
    ("studies", "INSERT", "", "'received'", "NEW.state", "''"),
    ("studies", "UPDATE OF state", "OLD.state <> NEW.state", "'state'", "NEW.state", "''"),
    ("reports", "INSERT", "", "'report'", "NEW.version", "''"),
    ("report_feedback", "INSERT", "", "'feedback'", "NEW.kind", "NEW.author"),
    ("study_holds", "INSERT", "", "'hold'", "''", "NEW.held_by"),
    ("study_holds", "UPDATE OF released_at", "OLD.released_at IS NULL", "'release'", "''", "NEW.released_by"),
)


def upgrade() -> None:
    for name in ("study_events", "study_holds", "report_feedback"):
        op.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
    _create_tables()
    op.execute("CREATE SEQUENCE IF NOT EXISTS study_event_positions")
    for number, event in enumerate(EVENTS):
        _create_trigger(number, *event)
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
    for number, (table, *_) in enumerate(EVENTS):
        op.execute(f"DROP TRIGGER study_event_{number} ON {table}")
        op.execute(f"DROP FUNCTION study_event_{number}()")
    for table in ("study_events", "study_holds", "report_feedback"):
        op.drop_table(table)
    op.execute("DROP SEQUENCE study_event_positions")


def _create_trigger(number: int, table: str, when: str, condition: str, kind: str, detail: str, author: str) -> None:
    study = "NEW.id" if table == "studies" else "NEW.study_id"
    insert = f"INSERT INTO study_events (study_id, kind, detail, author) VALUES ({study}, {kind}, {detail}, {author})"  # noqa: S608 - constants
    op.execute(
        f"CREATE OR REPLACE FUNCTION study_event_{number}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {insert}; RETURN NULL; END $$"
    )
    only = f"WHEN ({condition})" if condition else ""
    op.execute(
        f"CREATE OR REPLACE TRIGGER study_event_{number} AFTER {when} ON {table} FOR EACH ROW {only}"
        f" EXECUTE FUNCTION study_event_{number}()"
    )


def _create_tables() -> None:
    op.create_table(
        "report_feedback",
        *_keys(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("sentence", sa.SmallInteger),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        _time("at"),
        sa.CheckConstraint(
            "kind IN ('opened', 'accepted', 'edited', 'rejected', 'final', 'impression')", name="kind_known"
        ),
        sa.CheckConstraint("(kind IN ('edited', 'final', 'impression')) = (text <> '')", name="text_of_kind"),
    )
    op.create_index("report_feedback_study", "report_feedback", ["study_id", "version", "id"])
    op.create_table(
        "study_holds",
        *_keys(),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("held_by", sa.Text, nullable=False),
        _time("held_at"),
        sa.Column("released_by", sa.Text),
        sa.Column("released_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name="release_is_complete"),
    )
    released = sa.text("released_at IS NULL")
    op.create_index("study_holds_open", "study_holds", ["study_id"], unique=True, postgresql_where=released)
    op.create_index("study_holds_study", "study_holds", ["study_id"])
    _create_events()


def _create_events() -> None:
    op.create_table(
        "study_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        _study(),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        _time("at"),
        sa.Column("position", sa.BigInteger, unique=True),
    )
    op.create_index("study_events_study", "study_events", ["study_id", "id"])
    op.create_index("study_events_unpublished", "study_events", ["id"], postgresql_where=sa.text("position IS NULL"))


def _keys() -> list[Any]:
    return [sa.Column("id", sa.Uuid, primary_key=True), _study()]


def _study() -> sa.Column[Any]:
    return sa.Column("study_id", sa.Uuid, sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp())
