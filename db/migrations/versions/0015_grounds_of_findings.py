"""Sentences, findings and their grounds; erasing a reference case erases its words in reports."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reports", sa.Column("calibration", sa.Text()))
    op.create_check_constraint(
        "calibration_known", "reports", "calibration IN ('uncalibrated', 'certified', 'suspended')"
    )
    _create_tables()
    # Cases erased before this version left their words.
    op.execute("UPDATE report_evidence SET excerpt = '' WHERE case_id IS NULL")
    op.execute(
        """
        CREATE FUNCTION erase_quoted_words() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            UPDATE report_citations SET sentence = '' WHERE report_id = OLD.report_id AND rank = OLD.rank;
            NEW.excerpt := '';
            RETURN NEW;
        END $$
        """
    )
    # The foreign key sets case_id to NULL in whichever way the case is deleted.
    op.execute(
        "CREATE TRIGGER erase_quoted_words BEFORE UPDATE OF case_id ON report_evidence FOR EACH ROW"
        " WHEN (OLD.case_id IS NOT NULL AND NEW.case_id IS NULL) EXECUTE FUNCTION erase_quoted_words()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER erase_quoted_words ON report_evidence")
    op.execute("DROP FUNCTION erase_quoted_words()")
    for table in ("report_omissions", "report_citations", "report_findings", "report_sentences"):
        op.drop_table(table)
    op.drop_constraint("calibration_known", "reports")
    op.drop_column("reports", "calibration")


def _create_tables() -> None:
    op.create_table(
        "report_sentences",
        *_keys("ordinal"),
        sa.Column("section", sa.Text(), nullable=False),
        *_offsets(),
        sa.CheckConstraint("section IN ('findings', 'impression')", name="section_known"),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "report_findings",
        *_keys("ordinal"),
        sa.Column("sentence", sa.SmallInteger(), nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("name", "side", "zone", "size", "certainty", "verdict")
        ),
        *_offsets(),
        sa.Column("in_image", postgresql.JSONB(none_as_null=True)),
        sa.Column("log_prob", sa.Float()),
        sa.CheckConstraint("certainty IN ('present', 'uncertain', 'absent')", name="certainty_known"),
        sa.CheckConstraint(
            "verdict IN ('supported', 'picture only', 'unsupported', 'contradicted', 'not measurable')",
            name="verdict_known",
        ),
        _of("report_sentences", "sentence", "ordinal"),
    )
    op.create_table(
        "report_citations",
        *_keys("finding", "rank"),
        sa.Column("stance", sa.Text(), primary_key=True),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.CheckConstraint("stance IN ('affirms', 'denies')", name="stance_known"),
        _of("report_findings", "finding", "ordinal"),
        _of("report_evidence", "rank", "rank"),
    )
    op.create_table(
        "report_omissions",
        *_keys("ordinal"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("in_image", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"], ondelete="CASCADE"),
    )


def _keys(*numbers: str) -> list[Any]:
    return [
        sa.Column("report_id", sa.Uuid(), primary_key=True),
        *(sa.Column(name, sa.SmallInteger(), primary_key=True) for name in numbers),
    ]


def _offsets() -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Integer(), nullable=False) for name in ("start", "end")]


def _of(table: str, column: str, key: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["report_id", column], [f"{table}.report_id", f"{table}.{key}"], ondelete="CASCADE")
