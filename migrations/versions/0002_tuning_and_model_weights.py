"""What tuning tried and found, and weights of models that are more than factors.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "model_weights",
        sa.Column("number", KEY, nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["models.number"], name=op.f("fk_model_weights_number_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_model_weights")),
    )
    op.create_table(
        "tuned_configurations",
        sa.Column("objective", sa.String(length=16), nullable=False),
        sa.Column("architecture", sa.String(length=16), nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("default_value", sa.Double(), nullable=True),
        sa.Column("n_ratings", sa.BigInteger(), nullable=False),
        sa.Column("tuned_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("objective IN ('rating', 'ranking')", name=op.f("ck_tuned_configurations_objective")),
        sa.PrimaryKeyConstraint("objective", "architecture", name=op.f("pk_tuned_configurations")),
    )
    op.create_table(
        "tuning_trials",
        sa.Column("trial_key", KEY, autoincrement=True, nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("objective", sa.String(length=16), nullable=False),
        sa.Column("architecture", sa.String(length=16), nullable=False),
        sa.Column("data_fingerprint", sa.Text(), nullable=False),
        sa.Column("n_ratings", sa.BigInteger(), nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("objective IN ('rating', 'ranking')", name=op.f("ck_tuning_trials_objective")),
        sa.PrimaryKeyConstraint("trial_key", name=op.f("pk_tuning_trials")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_tuning_trials_study"), "tuning_trials", ["study"])


def downgrade() -> None:
    op.drop_table("tuning_trials")
    op.drop_table("tuned_configurations")
    op.drop_table("model_weights")
