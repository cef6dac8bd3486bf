"""Weights between the items of a version, in chunks.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "item_weights",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["models.number"], name=op.f("fk_item_weights_number_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", "chunk", name=op.f("pk_item_weights")),
    )


def downgrade() -> None:
    op.drop_table("item_weights")
