"""Steps of runs, exit codes, what the gate saw and how the refit turned out.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("models", sa.Column("gate", JSON, server_default="{}", nullable=False))
    op.add_column("models", sa.Column("newest_rating_at", sa.BigInteger(), nullable=True))
    op.add_column("models", sa.Column("refit", JSON, nullable=True))
    op.add_column("job_runs", sa.Column("exit_code", sa.Integer(), nullable=True))
    op.create_table(
        "job_steps",
        sa.Column("step_key", KEY, autoincrement=True, nullable=False),
        sa.Column("run_key", KEY, nullable=False),
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("objective", sa.String(length=16), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("figures", JSON, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name=op.f("ck_job_steps_status")),
        sa.ForeignKeyConstraint(
            ["run_key"], ["job_runs.run_key"], name=op.f("fk_job_steps_run_key_job_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("step_key", name=op.f("pk_job_steps")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_steps_run_key"), "job_steps", ["run_key"])


def downgrade() -> None:
    op.drop_table("job_steps")
    with op.batch_alter_table("job_runs") as batch:
        batch.drop_column("exit_code")
    with op.batch_alter_table("models") as batch:
        batch.drop_column("refit")
        batch.drop_column("newest_rating_at")
        batch.drop_column("gate")
