"""Last use of keys, files that jobs made, and a chain of hashes over the audit log.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Their values would stay in PostgreSQL's statistics after an erasure.
PERSONAL = (
    ("users", "user_id", "text"),
    ("users", "categories", "jsonb"),
    ("users", "attributes", "jsonb"),
    ("user_factors", "vector", "bytea"),
)


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("last_used_at", sa.BigInteger()))
    op.add_column("audit_log", sa.Column("previous_hash", sa.String(64)))
    op.add_column("audit_log", sa.Column("hash", sa.String(64)))
    op.create_table(
        "audit_head",
        sa.Column("head_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_entries", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("head_key", name=op.f("pk_audit_head")),
        sa.CheckConstraint("head_key = 1", name=op.f("ck_audit_head_one_row")),
    )
    op.create_table(
        "made_files",
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("machine", "path", name=op.f("pk_made_files")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, column, kind in PERSONAL:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")  # forgets the statistics
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column, _ in PERSONAL:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS -1")
    op.drop_table("made_files")
    op.drop_table("audit_head")
    op.drop_column("audit_log", "hash")
    op.drop_column("audit_log", "previous_hash")
    op.drop_column("api_keys", "last_used_at")
