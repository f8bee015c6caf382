"""The tables, on Neutron's model base so that they live in Neutron's database and its transactions."""

from __future__ import annotations

import sqlalchemy as sa
from neutron_lib.db import model_base


class JournalEntry(model_base.BASEV2):
    """Object ``object_id`` of ``kind`` changed and its rows in the DF DB may be out of date.

    ``parent`` is the network in whose scope the rows lie: after the object is gone nobody else knows. ``due`` is when
    somebody may take the entry (seconds of the epoch): a claim and a retry both push it into the future.
    """

    __tablename__ = "df_journal"

    seq = sa.Column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True)
    kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(36), nullable=False, index=True)
    parent = sa.Column(sa.String(36), nullable=False)
    due = sa.Column(sa.Double(), nullable=False, default=0.0, server_default="0")
    claimant = sa.Column(sa.String(36), nullable=True)
    attempts = sa.Column(sa.Integer(), nullable=False, default=0, server_default="0")
    created_at = sa.Column(sa.Double(), nullable=False)


class PortGeneration(model_base.BASEV2):
    """How often the port's active binding changed: a status that speaks of another generation is old news."""

    __tablename__ = "df_port_generations"

    port_id = sa.Column(sa.String(36), sa.ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True)
    generation = sa.Column(sa.BigInteger(), nullable=False)


class OwedEvent(model_base.BASEV2):
    """Nova was not yet seen to accept ``network-vif-plugged`` of the port for the server whose it was at ``created_at``.

    ``due`` is when it is sent again, ``attempts`` how often it was (times in seconds of the epoch). ``standby``: the port is
    plugged on a host to which it is being migrated, so its status says nothing.
    """

    __tablename__ = "df_owed_events"

    seq = sa.Column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True)
    port_id = sa.Column(sa.String(36), sa.ForeignKey("ports.id", ondelete="CASCADE"), nullable=False, index=True)
    server_id = sa.Column(sa.String(36), nullable=False)
    standby = sa.Column(sa.Boolean(), nullable=False, default=False, server_default=sa.false())
    created_at = sa.Column(sa.Double(), nullable=False)
    due = sa.Column(sa.Double(), nullable=False, index=True)
    attempts = sa.Column(sa.Integer(), nullable=False, default=0, server_default="0")
