"""The journal and the generations of port bindings.

Revision ID: df0000000001
Revises: df0000000000
"""

import sqlalchemy as sa
from alembic import op

revision = "df0000000001"
down_revision = "df0000000000"
branch_labels = ("expand",)


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "df_journal",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.Column("parent", sa.String(36), nullable=False),
        sa.Column("due", sa.Double(), nullable=False, server_default="0"),
        sa.Column("claimant", sa.String(36), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double(), nullable=False),
        mysql_engine="InnoDB",
    )
    op.create_table(
        "df_port_generations",
        sa.Column("port_id", sa.String(36), sa.ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        mysql_engine="InnoDB",
    )
