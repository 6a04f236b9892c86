"""Give jobs a kind, and store questions, choices between diagnoses and their answers."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

#: The server's default fills the rows without rewriting the table.
KIND = "ALTER TABLE jobs ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'report'"
KNOWN = "CHECK (kind IN ('report', 'question', 'diagnosis'))"
INDEXES = {"jobs_study": "jobs (study_id)"}
UNIQUE = "jobs_report", "jobs (study_id, revision) WHERE kind = 'report'"
IMMUTABLE = ("inquiries", "answers")
ERASE = """
    CREATE FUNCTION erase_words_of_case() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.excerpt := '';
        NEW.quoted := '';
        NEW.labels := '{}';
        NEW.cited := '[]';
        RETURN NEW;
    END $$;
    CREATE TRIGGER erase_words_of_case BEFORE UPDATE OF case_id ON answer_evidence
    FOR EACH ROW WHEN (OLD.case_id IS NOT NULL AND NEW.case_id IS NULL)
    EXECUTE FUNCTION erase_words_of_case();
"""


def upgrade() -> None:
    # Every statement can be repeated: the first transaction ends before the migration does.
    op.execute(KIND)
    op.execute("ALTER TABLE jobs DROP CONSTRAINT IF EXISTS kind_known")
    op.execute(f"ALTER TABLE jobs ADD CONSTRAINT kind_known {KNOWN} NOT VALID")
    create_indexes(INDEXES)
    create_indexes(dict([UNIQUE]), unique=True)
    with op.get_context().autocommit_block():
        # In a transaction of its own it reads the table without blocking the queue.
        op.execute("ALTER TABLE jobs VALIDATE CONSTRAINT kind_known")
    # Only after its successor exists.
    op.execute("ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_study_id_revision_key")
    _create_tables()
    op.execute(ERASE)
    for table in IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_update()"
        )


def downgrade() -> None:
    for table in ("answer_evidence", "answers", "inquiries"):
        op.drop_table(table)
    op.execute("DROP FUNCTION erase_words_of_case()")
    # An earlier release knows only reports.
    op.execute("DELETE FROM jobs WHERE kind <> 'report'")
    op.create_unique_constraint("jobs_study_id_revision_key", "jobs", ["study_id", "revision"])
    op.drop_column("jobs", "kind")
    drop_indexes("jobs_report", *INDEXES)


def _create_tables() -> None:
    op.create_table(
        "inquiries",
        _key("jobs.id", "RESTRICT"),
        sa.Column("study_id", sa.Uuid(), sa.ForeignKey("studies.id", ondelete="RESTRICT"), nullable=False),
        _text("kind"),
        sa.Column("question", sa.Text()),
        sa.Column("options", ARRAY(sa.Text())),
        sa.Column("several", sa.Boolean(), nullable=False, server_default=sa.false()),
        _text("requested_by"),
        _time("requested_at"),
        sa.CheckConstraint("kind IN ('question', 'diagnosis')", name="kind_known"),
        sa.CheckConstraint(
            "(kind = 'question') = (question IS NOT NULL) AND (kind = 'diagnosis') = (options IS NOT NULL)",
            name="question_or_options",
        ),
    )
    op.create_index("inquiries_study", "inquiries", ["study_id", sa.text("job_id DESC")])
    op.create_table(
        "answers",
        _key("inquiries.job_id", "CASCADE"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        *map(_text, ("text", "model_text", "why", "calibration", "basis", "prompt_version", "model_digest")),
        sa.Column("cannot_tell", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Double()) for name in ("confidence", "min_confidence", "none_of_these")),
        sa.Column("options", JSONB(none_as_null=True)),
        *(sa.Column(name, JSONB(), nullable=False) for name in ("predictions", "findings", "images", "provenance")),
        sa.Column("limitations", ARRAY(sa.Text()), nullable=False),
        _time("created_at"),
        sa.CheckConstraint("calibration IN ('uncalibrated', 'certified', 'suspended')", name="calibration_known"),
        sa.CheckConstraint("cannot_tell = (why <> '')", name="cannot_tell_has_a_reason"),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1 AND none_of_these BETWEEN 0 AND 1", name="probabilities"),
        sa.CheckConstraint("(options IS NULL) = (none_of_these IS NULL)", name="options_have_an_alternative"),
    )
    op.create_index("answers_created", "answers", ["created_at"])
    op.create_table(
        "answer_evidence",
        _key("answers.job_id", "CASCADE"),
        sa.Column("rank", sa.SmallInteger(), primary_key=True),
        sa.Column("case_id", sa.Uuid(), sa.ForeignKey("reference_cases.id", ondelete="SET NULL"), index=True),
        sa.Column("similarity", sa.Double(), nullable=False),
        *map(_text, ("excerpt", "quoted")),
        sa.Column("labels", ARRAY(sa.Text()), nullable=False),
        sa.Column("cited", JSONB(), nullable=False),
        sa.Column("warnings", ARRAY(sa.Text()), nullable=False),
    )


def _key(column: str, ondelete: str) -> sa.Column[Any]:
    return sa.Column("job_id", sa.Uuid(), sa.ForeignKey(column, ondelete=ondelete), primary_key=True)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp())
