"""Create the indexes by which answers are recalled, and reports by their specialist's draft."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

INDEXES = {
    "answers_model": "answers (model_digest, job_id DESC)",
    "answers_prompt": "answers (prompt_version, job_id DESC)",
    "answers_specialists": "answers USING gin (predictions jsonb_path_ops)",
    "ix_report_specialist_drafts_name": "report_specialist_drafts (name)",
}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
