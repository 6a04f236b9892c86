"""Several identities under one Study Instance UID, held until a person decides."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATES = "'receiving', 'settled', 'reported', 'not_reportable', 'failed', 'cancelled'"
HELD = "'receiving', 'settled', 'held', 'reported', 'not_reportable', 'failed', 'cancelled'"


def upgrade() -> None:
    op.add_column("studies", sa.Column("identity_number", sa.SmallInteger(), server_default="1", nullable=False))
    op.add_column("studies", sa.Column("issuer_of_patient_id", sa.Text(), server_default="", nullable=False))
    op.add_column("studies", sa.Column("differs", postgresql.ARRAY(sa.Text()), nullable=True))
    for column in ("identity_number", "issuer_of_patient_id"):
        op.alter_column("studies", column, server_default=None)
    op.drop_constraint("studies_study_instance_uid_key", "studies")
    op.create_unique_constraint(None, "studies", ["study_instance_uid", "identity_number"])
    _replace_checks(HELD, "'not_reportable', 'failed', 'cancelled', 'held'", "state IN ('receiving', 'held')")
    op.create_table(
        "identity_decisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("differs", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("former", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column(
            "decided_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_identity_decisions_study_id"), "identity_decisions", ["study_id"])


def downgrade() -> None:
    """Fail if a Study Instance UID has several identities: one row cannot hold them."""
    op.create_unique_constraint("studies_study_instance_uid_key", "studies", ["study_instance_uid"])
    op.drop_constraint("studies_study_instance_uid_identity_number_key", "studies")
    op.drop_table("identity_decisions")
    _replace_checks(STATES, "'not_reportable', 'failed', 'cancelled'", "state = 'receiving'")
    for column in ("differs", "issuer_of_patient_id", "identity_number"):
        op.drop_column("studies", column)


def _replace_checks(states: str, ends: str, unsettled: str) -> None:
    checks = {
        "state_known": f"state IN ({states})",
        "end_has_a_reason": f"state NOT IN ({ends}) OR reason IS NOT NULL",
        "settled_has_a_reason": f"{unsettled} OR settle_reason IS NOT NULL",
    }
    for name, condition in checks.items():
        op.drop_constraint(name, "studies")
        op.create_check_constraint(name, "studies", condition)
