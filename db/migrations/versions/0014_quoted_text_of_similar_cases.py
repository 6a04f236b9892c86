"""Store the text of a similar case that the model received, and empty it when the case is erased."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# The foreign key sets case_id to NULL when the case is deleted, in whichever way that is done.
FORGET = """
    CREATE FUNCTION forget_quoted_text() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.quoted := '';
        RETURN NEW;
    END $$;
    CREATE TRIGGER forget_quoted_text BEFORE UPDATE OF case_id ON report_evidence
    FOR EACH ROW WHEN (OLD.case_id IS NOT NULL AND NEW.case_id IS NULL)
    EXECUTE FUNCTION forget_quoted_text();
"""


def upgrade() -> None:
    op.add_column("report_evidence", sa.Column("quoted", sa.Text()))
    op.execute("ALTER TABLE report_evidence ADD COLUMN warnings text[] NOT NULL DEFAULT '{}'")
    op.execute(FORGET)


def downgrade() -> None:
    op.execute("DROP TRIGGER forget_quoted_text ON report_evidence; DROP FUNCTION forget_quoted_text()")
    op.drop_column("report_evidence", "warnings")
    op.drop_column("report_evidence", "quoted")
