"""The events that Nova must still accept.

Revision ID: df0000000003
Revises: df0000000001
"""

import sqlalchemy as sa
from alembic import op

revision = "df0000000003"
down_revision = "df0000000001"


def upgrade() -> None:
    """Make the table; and find an object's journal entries quickly."""
    op.create_index("ix_df_journal_object_id", "df_journal", ["object_id"])
    op.create_table(
        "df_owed_events",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("port_id", sa.String(36), sa.ForeignKey("ports.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("server_id", sa.String(36), nullable=False),
        sa.Column("standby", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False, index=True),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        mysql_engine="InnoDB",
    )
