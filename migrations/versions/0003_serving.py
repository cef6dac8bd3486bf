"""What serving needs: kept counts, who changed since when, fold-in rows, keys and the audit log.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("item_factors", sa.Column("implicit", sa.LargeBinary(), nullable=True))
    op.create_table(
        "item_counts",
        sa.Column("item_key", KEY, autoincrement=False, nullable=False),
        sa.Column("n_ratings", sa.BigInteger(), nullable=False),
        sa.Column("rating_sum", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_item_counts")),
    )
    op.execute(
        "INSERT INTO item_counts (item_key, n_ratings, rating_sum) "
        "SELECT item_key, count(*), sum(rating) FROM ratings GROUP BY item_key"
    )
    op.create_table(
        "user_changes",
        sa.Column("user_key", KEY, autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_user_changes_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_key", name=op.f("pk_user_changes")),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_number", KEY, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_number", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit_log",
        sa.Column("entry_key", KEY, autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.PrimaryKeyConstraint("entry_key", name=op.f("pk_audit_log")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("audit_log", "api_keys", "user_changes", "item_counts"):
        op.drop_table(table)
    with op.batch_alter_table("item_factors") as batch:
        batch.drop_column("implicit")
