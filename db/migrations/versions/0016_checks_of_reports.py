"""Store the results of the checks of a report."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_checks",
        sa.Column("report_id", sa.Uuid(), sa.ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("sentences", sa.ARRAY(sa.Text()), nullable=False),
        sa.CheckConstraint("state IN ('warning', 'notice', 'passed', 'not_applicable')", name="state_known"),
    )


def downgrade() -> None:
    op.drop_table("report_checks")
