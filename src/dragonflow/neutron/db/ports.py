"""Light questions to Neutron's own tables, where the plugin's full answer would cost too much."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import address_group as ag_models
from neutron.db.models import l3 as l3_models
from neutron.db.models import securitygroup as sg_models
from neutron.db.qos import models as qos_models
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from sqlalchemy import orm

from dragonflow.neutron.db.floating import FLOATING_KIND
from dragonflow.neutron.db.models import JournalEntry, PortGeneration
from dragonflow.neutron.db.qos import QOS_KIND
from dragonflow.neutron.db.retry import retry_deadlocks
from dragonflow.neutron.db.routers import ROUTER_KIND, is_being_written, is_routers
from dragonflow.neutron.db.security_groups import ADDRESS_GROUP_KIND, SECURITY_GROUP_KIND
from dragonflow.neutron.profile import decoded, remote

PAGE = 500
_MODELS = {
    "network": models_v2.Network,
    "subnet": models_v2.Subnet,
    "port": models_v2.Port,
    ROUTER_KIND: l3_models.Router,
    FLOATING_KIND: l3_models.FloatingIP,
    QOS_KIND: qos_models.QosPolicy,
    SECURITY_GROUP_KIND: sg_models.SecurityGroup,
    ADDRESS_GROUP_KIND: ag_models.AddressGroup,
}


class PortNow(NamedTuple):
    """What decides a port's status: its binding as it is now, and the status that Neutron shows."""

    id: str
    status: str
    admin_up: bool
    host: str
    vif_type: str
    generation: int
    ours: bool
    migrating: bool = False
    routing: bool = False
    gateway: bool = False
    unwritten: bool = False
    remote: bool = False


class StandbyNow(NamedTuple):
    """A host that is prepared for a port which is bound elsewhere: where a live migration goes to."""

    id: str
    host: str
    generation: int


@retry_deadlocks
def revision(context: Any, kind: str, id: str) -> int | None:
    """The revision number of an object of one of these kinds; None if there is no such object."""
    model, attributes = _MODELS[kind], standard_attr.StandardAttribute
    query = sa.select(attributes.revision_number).join(model, model.standard_attr_id == attributes.id)
    with db_api.CONTEXT_READER.using(context):
        found: int | None = context.session.scalar(query.where(model.id == id))
        return found


@retry_deadlocks
def generation(context: Any, port_id: str) -> int:
    """The generation of the port's binding; 0 before the first."""
    with db_api.CONTEXT_READER.using(context):
        return context.session.scalar(sa.select(PortGeneration.generation).filter_by(port_id=port_id)) or 0


@retry_deadlocks
def generations(context: Any) -> dict[str, int]:
    """The generations of all ports' bindings."""
    with db_api.CONTEXT_READER.using(context):
        return dict(context.session.execute(sa.select(PortGeneration.port_id, PortGeneration.generation)).all())


def ports_now(
    context: Any, driver: str, ids: Collection[str] | None = None, providers: Collection[str] = ()
) -> Iterator[PortNow]:
    """The ports as they are now, of all or of the given ids, in pages of ``PAGE`` each in a transaction of its own.

    ``ours`` says that ``driver`` bound the port to its host; ``migrating``, that further hosts are prepared for it; ``routing``,
    that it is an interface of a router of one of the L3 ``providers``; ``gateway``, that it is the gateway of one; ``unwritten``,
    that the journal is still to write its rows or its router's; ``remote``, that it is a port of another region.
    """
    if ids is not None:
        wanted = sorted(ids)
        for start in range(0, len(wanted), PAGE):
            yield from _page(context, driver, providers, models_v2.Port.id.in_(wanted[start : start + PAGE]))
        return
    last = ""
    while page := _page(context, driver, providers, models_v2.Port.id > last):
        yield from page
        last = page[-1].id


@retry_deadlocks
def _page(context: Any, driver: str, providers: Collection[str], condition: Any) -> list[PortNow]:
    port, binding, level = models_v2.Port, ml2_models.PortBinding, ml2_models.PortBindingLevel
    other = orm.aliased(ml2_models.PortBinding)
    ours = sa.exists().where(level.port_id == port.id, level.host == binding.host, level.driver == driver)
    migrating = sa.exists().where(other.port_id == port.id, other.status == constants.INACTIVE)
    routing = (
        is_routers(constants.DEVICE_OWNER_ROUTER_INTF, providers, port),
        is_routers(constants.DEVICE_OWNER_ROUTER_GW, providers, port),
        is_being_written(port),
    )
    query = (
        sa.select(
            port.id,
            port.status,
            port.admin_state_up,
            binding.host,
            binding.vif_type,
            sa.func.coalesce(PortGeneration.generation, 0),
            binding.profile,
            ours,
            migrating,
            *(routing if providers else (sa.false(),) * len(routing)),
        )
        .join(binding, sa.and_(binding.port_id == port.id, binding.status == constants.ACTIVE))
        .outerjoin(PortGeneration, PortGeneration.port_id == port.id)
        .where(condition)
        .order_by(port.id)
        .limit(PAGE)
    )
    with db_api.CONTEXT_READER.using(context):
        return [_port(row) for row in context.session.execute(query)]


def _port(row: Any) -> PortNow:
    *fields, profile, ours, migrating, routing, gateway, unwritten = row
    port = PortNow(*fields, *map(bool, (ours, migrating, routing, gateway, unwritten)))
    return port._replace(remote=remote(decoded(profile), port.host) is not None)


@retry_deadlocks
def ports_mark(context: Any) -> tuple[Any, ...]:
    """Is another whenever any port, binding or floating IP has changed: sums by the database, far cheaper than ``ports_now``.

    Every change raises a revision or a generation. That changes which cancel each other out in all sums go unseen is possible.
    """
    attributes = standard_attr.StandardAttribute
    ports = sa.select(sa.func.count(), sa.func.sum(attributes.revision_number), sa.func.max(attributes.id))
    bindings = sa.select(sa.func.count(), sa.func.sum(PortGeneration.generation))
    others = sa.select(sa.func.count()).select_from(ml2_models.PortBinding)
    interfaces = sa.select(sa.func.count()).select_from(l3_models.RouterPort)
    floating = sa.select(sa.func.count(), sa.func.sum(attributes.revision_number))
    unwritten = sa.select(sa.func.count(), sa.func.max(JournalEntry.seq))
    with db_api.CONTEXT_READER.using(context):
        of_ports = ports.join(models_v2.Port, models_v2.Port.standard_attr_id == attributes.id)
        standby = others.where(ml2_models.PortBinding.status == constants.INACTIVE)
        serving = floating.join(l3_models.FloatingIP, l3_models.FloatingIP.standard_attr_id == attributes.id)
        queries = (of_ports, bindings, standby, interfaces, serving, unwritten)
        return tuple(value for query in queries for value in context.session.execute(query).one())


@retry_deadlocks
def standby_now(context: Any, driver: str, ids: Collection[str] | None = None) -> list[StandbyNow]:
    """The hosts that ``driver`` has prepared for ports bound elsewhere; of all ports, or of a page of ids."""
    binding, level = ml2_models.PortBinding, ml2_models.PortBindingLevel
    ours = sa.exists().where(level.port_id == binding.port_id, level.host == binding.host, level.driver == driver)
    query = (
        sa.select(binding.port_id, binding.host, sa.func.coalesce(PortGeneration.generation, 0))
        .outerjoin(PortGeneration, PortGeneration.port_id == binding.port_id)
        .where(binding.status == constants.INACTIVE, ours)
    )
    if ids is not None:
        query = query.where(binding.port_id.in_(ids))
    with db_api.CONTEXT_READER.using(context):
        return [StandbyNow(*row) for row in context.session.execute(query)]
