"""Trunks in Neutron's tables: who carries whom, the journal entries of changes, and what the leader keeps right about them.

A child's row in the DF DB follows from its parent's bindings. So whatever changes those, in whichever way, notes the children
in the journal, in the same transaction; and so do the writes to ``trunks`` and ``subports`` themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.plugins.ml2 import models as ml2_models
from neutron.services.trunk.models import SubPort, Trunk
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.db import api as db_api
from neutron_lib.services.trunk.constants import TRUNK_SUBPORT_OWNER
from sqlalchemy import orm

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.listeners import WRITES, Listener, listen, write_entry
from dragonflow.neutron.db.models import PortGeneration
from dragonflow.neutron.db.retry import retry_deadlocks
from dragonflow.neutron.translate import PortBinding, Trunking

PAGE = 500
"""Trunks or ports that are read at a time."""


def listen_to_trunks() -> None:
    """Catch the writes to trunks, their children, and the bindings by which those follow their parents."""
    listen(_LISTENERS)


def _child_changed(_mapper: Any, connection: Any, child: Any) -> None:
    _record(connection, child, models_v2.Port.id == child.port_id)


def _trunk_changed(_mapper: Any, connection: Any, trunk: Any) -> None:
    _record(connection, trunk, models_v2.Port.id == trunk.port_id)


def _binding_changed(_mapper: Any, connection: Any, binding: Any) -> None:
    children = sa.select(SubPort.port_id).join(Trunk, Trunk.id == SubPort.trunk_id)
    _record(connection, binding, models_v2.Port.id.in_(children.where(Trunk.port_id == binding.port_id)))


def _record(connection: Any, written: Any, ports: Any) -> None:
    port = models_v2.Port
    write_entry(connection, written, sa.select(sa.literal("port"), port.id, port.network_id, Now()).where(ports))


_LISTENERS: tuple[Listener, ...] = (
    (SubPort, "after_insert", _child_changed),
    (SubPort, "after_delete", _child_changed),
    (Trunk, "after_insert", _trunk_changed),
    (Trunk, "after_delete", _trunk_changed),
    *((ml2_models.PortBinding, name, _binding_changed) for name in WRITES),
)


def trunkings(context: Any, ids: Sequence[str]) -> dict[str, Trunking]:
    """The parts that these ports have in trunks; of those that have none, nothing."""
    found: dict[str, Trunking] = {}
    for start in range(0, len(ids), PAGE):
        found |= _trunkings(context, ids[start : start + PAGE])
    return found


@retry_deadlocks
def _trunkings(context: Any, ids: Sequence[str]) -> dict[str, Trunking]:
    binding = ml2_models.PortBinding
    parents = sa.select(Trunk.port_id, Trunk.id).where(Trunk.port_id.in_(ids))
    children = (
        sa.select(
            *(SubPort.port_id, Trunk.port_id, SubPort.segmentation_id),
            *(binding.host, binding.vif_type, binding.status, _is_turning(binding)),
        )
        .join(Trunk, Trunk.id == SubPort.trunk_id)
        .outerjoin(binding, binding.port_id == Trunk.port_id)
        .where(SubPort.port_id.in_(ids))
    )
    with db_api.CONTEXT_READER.using(context):
        found = {port: Trunking(trunk=trunk) for port, trunk in context.session.execute(parents)}
        for port, parent, vlan, host, vif_type, status, turning in context.session.execute(children):
            known = found.get(port, Trunking(parent=parent, vlan=vlan))
            active = status != constants.INACTIVE
            more = (
                () if host is None else (PortBinding(host, portbindings.VIF_TYPE_OVS if turning else vif_type, active),)
            )
            found[port] = known._replace(bindings=(*known.bindings, *more))
    return found


def _is_turning(binding: Any) -> Any:
    """Whether a live migration of the port is half done: before ML2 activates the binding that is prepared, it unbinds the port
    from its host, in a transaction of its own. The port's own row skips that state, so its children's must not tell it."""
    other = orm.aliased(ml2_models.PortBinding)
    prepared = sa.exists().where(other.port_id == binding.port_id, other.status == constants.INACTIVE)
    unbound = binding.vif_type == portbindings.VIF_TYPE_UNBOUND
    return sa.and_(binding.status == constants.ACTIVE, binding.host != "", unbound, prepared)


class PortOfTrunk(NamedTuple):
    """A trunk's parent or child as Neutron has it now; ``foreign`` says that another driver than ours has bound it, ``turning``
    that it is between two hosts."""

    id: str
    status: str
    admin_up: bool
    device_owner: str
    host: str
    vif_type: str
    generation: int
    foreign: bool
    turning: bool


class TrunkNow(NamedTuple):
    """A trunk as Neutron has it now."""

    id: str
    status: str
    parent: PortOfTrunk
    children: tuple[PortOfTrunk, ...]


def trunks_now(context: Any, driver: str) -> Iterator[TrunkNow]:
    """All trunks, in pages, each read in a transaction of its own when it is asked for."""
    last = ""
    while page := _page(context, driver, last):
        yield from page
        last = page[-1].id


@retry_deadlocks
def _page(context: Any, driver: str, after: str) -> list[TrunkNow]:
    trunks = (
        _ports(driver, Trunk.id, Trunk.status)
        .join(Trunk, Trunk.port_id == models_v2.Port.id)
        .where(Trunk.id > after)
        .order_by(Trunk.id)
        .limit(PAGE)
    )
    with db_api.CONTEXT_READER.using(context):
        found = context.session.execute(trunks).all()
        children: dict[str, list[PortOfTrunk]] = {row[0]: [] for row in found}
        of_these = _ports(driver, SubPort.trunk_id).join(SubPort, SubPort.port_id == models_v2.Port.id)
        for trunk, *child in context.session.execute(of_these.where(SubPort.trunk_id.in_(children))):
            children[trunk].append(_port(child))
    return [TrunkNow(row[0], row[1], _port(row[2:]), tuple(children[row[0]])) for row in found]


@retry_deadlocks
def former_children(context: Any, driver: str) -> list[PortOfTrunk]:
    """Ports that say that they are a trunk's, but are no more; and no other driver's either."""
    port = models_v2.Port
    query = _ports(driver).where(
        port.device_owner == TRUNK_SUBPORT_OWNER, ~sa.exists().where(SubPort.port_id == port.id)
    )
    with db_api.CONTEXT_READER.using(context):
        return [found for row in context.session.execute(query) if not (found := _port(row)).foreign]


def _ports(driver: str, *columns: Any) -> Any:
    """A query for the columns, and after them those that ``PortOfTrunk`` tells."""
    port, binding, level = models_v2.Port, ml2_models.PortBinding, ml2_models.PortBindingLevel
    foreign = sa.exists().where(level.port_id == port.id, level.host == binding.host, level.driver != driver)
    return (
        sa.select(
            *columns,
            *(port.id, port.status, port.admin_state_up, port.device_owner, binding.host, binding.vif_type),
            *(sa.func.coalesce(PortGeneration.generation, 0), foreign, _is_turning(binding)),
        )
        .select_from(port)
        .join(binding, sa.and_(binding.port_id == port.id, binding.status == constants.ACTIVE))
        .outerjoin(PortGeneration, PortGeneration.port_id == port.id)
    )


def _port(row: Any) -> PortOfTrunk:
    *columns, foreign, turning = row
    return PortOfTrunk._make((*columns, bool(foreign), bool(turning)))
