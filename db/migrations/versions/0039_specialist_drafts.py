"""Store the drafts of specialist models, and those that a report was written with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

PREDICTIONS = "specialist_predictions"
LABEL_OR_DRAFT = "(label = '') <> (draft = '') AND (draft = '' OR score IS NULL)"


def upgrade() -> None:
    op.add_column(PREDICTIONS, sa.Column("draft", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.create_check_constraint("label_or_draft", PREDICTIONS, LABEL_OR_DRAFT)
    op.add_column("specialist_reports", sa.Column("drafts", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.create_table(
        "report_specialist_drafts",
        sa.Column("report_id", sa.Uuid(), sa.ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "version", "source", "text", "quoted")),
        sa.Column("warnings", ARRAY(sa.Text()), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("report_specialist_drafts")
    op.drop_column("specialist_reports", "drafts")
    # Without the column a draft would be a prediction of an empty label.
    op.execute("DELETE FROM specialist_predictions WHERE draft <> ''")
    op.drop_constraint("label_or_draft", PREDICTIONS)
    op.drop_column(PREDICTIONS, "draft")
