"""Checksums of stored versions. Versions stored before have none, and are served unverified.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("checksum", sa.String(length=64), nullable=True))
    op.add_column("user_factors", sa.Column("checksum", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for table in ("user_factors", "models"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("checksum")
