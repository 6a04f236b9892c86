"""Mark studies with a finding that evidence or image speak against, as those with a failed check.

A trigger keeps the mark for a worker of the earlier release, which may run beside new ones.
"""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

VERDICTS = "('unsupported', 'contradicted')"
FILL = f"""
    UPDATE studies SET is_marked = true FROM reports
    WHERE reports.study_id = studies.id AND reports.version = studies.report_version AND NOT is_marked
        AND EXISTS (SELECT FROM report_findings WHERE report_id = reports.id AND verdict IN {VERDICTS})
"""  # noqa: S608 - constants


def upgrade() -> None:
    # The function of migration 0033, which marks the study of the report of the new row.
    op.execute(
        "CREATE OR REPLACE TRIGGER note_verdict AFTER INSERT ON report_findings FOR EACH ROW"
        f" WHEN (NEW.verdict IN {VERDICTS}) EXECUTE FUNCTION note_mark()"
    )
    op.execute(FILL)


def downgrade() -> None:
    # The marks stay: the earlier release shows a few studies more.
    op.execute("DROP TRIGGER note_verdict ON report_findings")
