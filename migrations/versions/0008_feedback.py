"""Two kinds of feedback, withdrawn pairs and erased users, events, and the weight that a version maps to the top.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS = "user_key, item_key, rating, rated_at"


def create_ratings(name: str, *kind: sa.Column[int]) -> None:
    """Create a table of ratings. SQLite cannot change a primary key, and Alembic's copy loses WITHOUT ROWID."""
    key = ("user_key", "item_key", *(column.name for column in kind))
    op.create_table(
        name,
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("item_key", KEY, autoincrement=False, nullable=False),
        *kind,
        sa.Column("rating", sa.Double(), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_ratings_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(*key, name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def upgrade() -> None:
    if is_sqlite():
        kind = sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False, server_default="0")
        create_ratings("ratings_of_kinds", kind)
        op.execute(f"INSERT INTO ratings_of_kinds ({COLUMNS}) SELECT {COLUMNS} FROM ratings")
        op.drop_table("ratings")
        op.rename_table("ratings_of_kinds", "ratings")
    else:
        op.add_column("ratings", sa.Column("kind", sa.SmallInteger(), nullable=False, server_default="0"))
        op.drop_constraint(op.f("pk_ratings"), "ratings")
        op.create_primary_key(op.f("pk_ratings"), "ratings", ["user_key", "item_key", "kind"])
    op.add_column("item_counts", sa.Column("n_explicit", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE item_counts SET n_explicit = n_ratings")
    op.add_column("models", sa.Column("weight_top", sa.Double(), nullable=True))
    op.create_table(
        "tombstones",
        sa.Column("user_hash", sa.String(length=32), nullable=False),
        sa.Column("pair_hash", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_hash", "pair_hash", name=op.f("pk_tombstones")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "events",
        sa.Column("user_key", KEY, autoincrement=False, nullable=False),
        sa.Column("item_key", KEY, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_events_user_key_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_key", "item_key", "at", name=op.f("pk_events")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("events", "secrets", "tombstones"):
        op.drop_table(table)
    for table, column in (("models", "weight_top"), ("item_counts", "n_explicit")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
    op.execute("DELETE FROM ratings WHERE kind <> 0")
    if is_sqlite():
        create_ratings("ratings_of_one_kind")
        op.execute(f"INSERT INTO ratings_of_one_kind ({COLUMNS}) SELECT {COLUMNS} FROM ratings")
        op.drop_table("ratings")
        op.rename_table("ratings_of_one_kind", "ratings")
    else:
        op.drop_constraint(op.f("pk_ratings"), "ratings")
        op.create_primary_key(op.f("pk_ratings"), "ratings", ["user_key", "item_key"])
        op.drop_column("ratings", "kind")
