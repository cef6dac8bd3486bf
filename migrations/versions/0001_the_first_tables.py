"""Ratings, model versions and job runs: the first tables.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "change_counter",
        sa.Column("counter_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("counter_key = 1", name=op.f("ck_change_counter_one_row")),
        sa.PrimaryKeyConstraint("counter_key", name=op.f("pk_change_counter")),
    )
    op.create_table(
        "changes",
        sa.Column("seq", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("key", sa.BigInteger(), server_default="0", autoincrement=False, nullable=False),
        sa.CheckConstraint("kind IN ('user', 'item', 'all')", name=op.f("ck_changes_kind")),
        sa.PrimaryKeyConstraint("seq", "kind", "key", name=op.f("pk_changes")),
    )
    op.create_table(
        "items",
        sa.Column("item_key", KEY, autoincrement=True, nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("categories", JSON, server_default="[]", nullable=False),
        sa.Column("attributes", JSON, server_default="{}", nullable=False),
        sa.Column("hidden", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_items")),
        sa.UniqueConstraint("item_id", name=op.f("uq_items_item_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_leases",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_job_leases")),
    )
    op.create_table(
        "job_runs",
        sa.Column("run_key", KEY, autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name=op.f("ck_job_runs_status")),
        sa.PrimaryKeyConstraint("run_key", name=op.f("pk_job_runs")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "models",
        sa.Column("number", KEY, autoincrement=True, nullable=False),
        sa.Column("objective", sa.String(length=16), nullable=False),
        sa.Column("architecture", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("configuration", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("baselines", JSON, nullable=False),
        sa.Column("history", JSON, nullable=False),
        sa.Column("data_fingerprint", sa.Text(), nullable=False),
        sa.Column("trained_seq", sa.BigInteger(), nullable=False),
        sa.Column("n_users", sa.BigInteger(), nullable=False),
        sa.Column("n_items", sa.BigInteger(), nullable=False),
        sa.Column("n_ratings", sa.BigInteger(), nullable=False),
        sa.Column("n_factors", sa.Integer(), nullable=False),
        sa.Column("global_bias", sa.Double(), nullable=False),
        sa.Column("rating_min", sa.Double(), nullable=False),
        sa.Column("rating_max", sa.Double(), nullable=False),
        sa.Column("range_low", sa.Double(), nullable=True),
        sa.Column("range_high", sa.Double(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("training_seconds", sa.Double(), nullable=False),
        sa.Column("gate_passed", sa.Boolean(), nullable=False),
        sa.Column("gate_reason", sa.Text(), nullable=False),
        sa.CheckConstraint("objective IN ('rating', 'ranking')", name=op.f("ck_models_objective")),
        sa.CheckConstraint("status IN ('storing', 'ready')", name=op.f("ck_models_status")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_models")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "publications",
        sa.Column("publication_key", KEY, autoincrement=True, nullable=False),
        sa.Column("objective", sa.String(length=16), nullable=False),
        sa.Column("number", KEY, nullable=False),
        sa.Column("replaced_number", KEY, nullable=True),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("action IN ('publish', 'rollback')", name=op.f("ck_publications_action")),
        sa.PrimaryKeyConstraint("publication_key", name=op.f("pk_publications")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "users",
        sa.Column("user_key", KEY, autoincrement=True, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("categories", JSON, server_default="[]", nullable=False),
        sa.Column("attributes", JSON, server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("user_key", name=op.f("pk_users")),
        sa.UniqueConstraint("user_id", name=op.f("uq_users_user_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "item_factors",
        sa.Column("number", KEY, nullable=False),
        sa.Column("item_key", KEY, nullable=False),
        sa.Column("bias", sa.Float(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_key"], ["items.item_key"], name=op.f("fk_item_factors_item_key_items"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["number"], ["models.number"], name=op.f("fk_item_factors_number_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", "item_key", name=op.f("pk_item_factors")),
    )
    op.create_table(
        "live_models",
        sa.Column("objective", sa.String(length=16), nullable=False),
        sa.Column("number", KEY, nullable=False),
        sa.ForeignKeyConstraint(["number"], ["models.number"], name=op.f("fk_live_models_number_models")),
        sa.PrimaryKeyConstraint("objective", name=op.f("pk_live_models")),
    )
    op.create_table(
        "ratings",
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("item_key", KEY, autoincrement=False, nullable=False),
        sa.Column("rating", sa.Double(), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_ratings_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_key", "item_key", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "user_factors",
        sa.Column("number", KEY, nullable=False),
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("bias", sa.Float(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["models.number"], name=op.f("fk_user_factors_number_models"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_user_factors_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", "user_key", name=op.f("pk_user_factors")),
    )
    op.create_index(op.f("ix_user_factors_user_key"), "user_factors", ["user_key"])
    op.execute("INSERT INTO change_counter (counter_key, seq) VALUES (1, 0)")


def downgrade() -> None:
    op.drop_table("user_factors")
    op.drop_table("ratings")
    op.drop_table("live_models")
    op.drop_table("item_factors")
    op.drop_table("users")
    op.drop_table("publications")
    op.drop_table("models")
    op.drop_table("job_runs")
    op.drop_table("job_leases")
    op.drop_table("items")
    op.drop_table("changes")
    op.drop_table("change_counter")
