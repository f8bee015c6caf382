"""The root of the contract branch: nothing of Neutron's needs to stop for it.

Revision ID: df0000000002
Revises: df0000000000
"""

revision = "df0000000002"
down_revision = "df0000000000"
branch_labels = ("contract",)


def upgrade() -> None:
    """Nothing yet."""
