"""The events that Nova must still accept. Noted in the transaction that turns a port ACTIVE, struck when Nova has said yes."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron_lib import constants
from neutron_lib.db import api as db_api
from oslo_config import cfg
from oslo_utils import uuidutils

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.models import OwedEvent
from dragonflow.neutron.db.retry import retry_deadlocks


class Owed(NamedTuple):
    """Nova has not yet accepted ``network-vif-plugged`` of this port for this server; ``attempts`` were made by us.

    ``stands`` says that the port is still ACTIVE, or wired where it is being migrated to, and still the server's.
    """

    seq: int
    port_id: str
    server_id: str
    attempts: int
    created_at: float
    stands: bool


def owe(connection: Any, port: Any, standby: bool = False) -> None:
    """Note that Nova must learn that the port is plugged, if it is one of Nova's and Nova is to be told at all.

    ``standby``: it is plugged where it is being migrated to, whatever its status.
    """
    if not cfg.CONF.notify_nova_on_port_status_changes or not of_nova(port.device_id, port.device_owner):
        return
    connection.execute(
        sa.insert(OwedEvent).values(
            port_id=port.id, server_id=port.device_id, standby=standby, created_at=Now(), due=Now() + grace()
        )
    )


def grace() -> float:
    """Seconds within which Neutron's own notifier has sent an event, and Nova answered, if all is well."""
    return float(2 * cfg.CONF.send_events_interval + 2)


def of_nova(device_id: str | None, device_owner: str | None) -> bool:
    """Whether Neutron tells Nova of such a port."""
    return (device_owner or "").startswith(constants.DEVICE_OWNER_COMPUTE_PREFIX) and uuidutils.is_uuid_like(device_id)


@retry_deadlocks
def owed(context: Any, limit: int = 100) -> list[Owed]:
    """Events that are due to be sent again, the oldest first."""
    port = models_v2.Port
    query = (
        sa.select(
            OwedEvent.seq,
            OwedEvent.port_id,
            OwedEvent.server_id,
            OwedEvent.attempts,
            OwedEvent.created_at,
            sa.and_(
                port.device_id == OwedEvent.server_id,
                sa.or_(OwedEvent.standby, port.status == constants.PORT_STATUS_ACTIVE),
            ),
        )
        .join(port, port.id == OwedEvent.port_id)
        .where(OwedEvent.due <= Now())
        .order_by(OwedEvent.seq)
        .limit(limit)
    )
    with db_api.CONTEXT_READER.using(context):
        return [Owed(*row)._replace(stands=bool(row[-1])) for row in context.session.execute(query)]


@retry_deadlocks
def put_off(context: Any, seqs: Collection[int], delay: float) -> None:
    """They were sent once more: look again ``delay`` seconds from now."""
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.update(OwedEvent)
            .where(OwedEvent.seq.in_(seqs))
            .values(due=Now() + delay, attempts=OwedEvent.attempts + 1),
            execution_options={"synchronize_session": False},
        )


@retry_deadlocks
def strike(context: Any, seqs: Collection[int]) -> None:
    """Nobody need be told of these any more."""
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.delete(OwedEvent).where(OwedEvent.seq.in_(seqs)), execution_options={"synchronize_session": False}
        )


@retry_deadlocks
def accepted(context: Any, ports: Collection[str], before: float) -> None:
    """Nova took the events of these ports, which were sent at ``before``, by the clock of ``time.monotonic``.

    Where the turn itself is about to be committed, this waits for it: Neutron may send an event a little before its commit.
    """
    age = time.monotonic() - before
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.delete(OwedEvent).where(OwedEvent.port_id.in_(ports), OwedEvent.created_at <= Now() - age),
            execution_options={"synchronize_session": False},
        )


@retry_deadlocks
def refused(context: Any, ports: Collection[str], patience: float, delay: float) -> None:
    """Nova has no such server, or no host for it: try again in ``delay`` seconds, or no more after ``patience`` seconds."""
    mine = OwedEvent.port_id.in_(ports)
    options = {"synchronize_session": False}
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.delete(OwedEvent).where(mine, OwedEvent.created_at <= Now() - patience), execution_options=options
        )
        context.session.execute(sa.update(OwedEvent).where(mine).values(due=Now() + delay), execution_options=options)
