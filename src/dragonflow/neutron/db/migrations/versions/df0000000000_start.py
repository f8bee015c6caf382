"""The root of Dragonflow's migrations, before any table.

Revision ID: df0000000000
"""

revision = "df0000000000"
down_revision = None


def upgrade() -> None:
    """Nothing yet: both branches begin here."""
