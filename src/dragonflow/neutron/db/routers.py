"""Routers in Neutron's tables: which are Dragonflow's, in which networks they stand, and the journal entries of their changes.

Neutron publishes nothing in the transaction that adds an interface to a router. So the entries hang on the writes to the
tables themselves, whichever way they come about: routers, their routes, their ports. Those of floating IPs: ``floating``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3 as l3_models
from neutron.db.models.servicetype import ProviderResourceAssociation
from neutron.db.qos.models import QosRouterGatewayIPPolicyBinding
from neutron_lib import constants
from neutron_lib.db import api as db_api

from dragonflow.neutron.db.listeners import WRITES, Listener, listen, write_plain_entry
from dragonflow.neutron.db.models import JournalEntry
from dragonflow.neutron.db.retry import retry_deadlocks

ROUTER_KIND = "router"


def listen_to_routers() -> None:
    """Catch the writes to routers, their ports, their routes, and the QoS policies of their gateways."""
    listen(_LISTENERS)


def _router_changed(_mapper: Any, connection: Any, router: Any) -> None:
    _record(connection, router, router.id)


def _part_changed(_mapper: Any, connection: Any, part: Any) -> None:
    _record(connection, part, part.router_id)


def _record(connection: Any, written: Any, router: str) -> None:
    write_plain_entry(connection, written, ROUTER_KIND, router, router)


_LISTENERS: tuple[Listener, ...] = (
    (l3_models.Router, "after_insert", _router_changed),
    (l3_models.Router, "after_update", _router_changed),
    (l3_models.Router, "after_delete", _router_changed),
    (l3_models.RouterPort, "after_insert", _part_changed),
    (l3_models.RouterPort, "after_delete", _part_changed),
    (l3_models.RouterRoute, "after_insert", _part_changed),
    (l3_models.RouterRoute, "after_delete", _part_changed),
    *((QosRouterGatewayIPPolicyBinding, name, _part_changed) for name in WRITES),
)


@retry_deadlocks
def our_routers(context: Any, providers: Collection[str], ids: Collection[str]) -> set[str]:
    """Those of the routers that belong to one of the providers."""
    ours = ProviderResourceAssociation
    query = sa.select(ours.resource_id).where(ours.provider_name.in_(providers), ours.resource_id.in_(ids))
    with db_api.CONTEXT_READER.using(context):
        return set(context.session.scalars(query))


@retry_deadlocks
def router_interfaces(context: Any, ids: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """Port and network of each interface of the routers, by router; gateways are none."""
    link, port = l3_models.RouterPort, models_v2.Port
    query = (
        sa.select(link.router_id, link.port_id, port.network_id)
        .join(port, port.id == link.port_id)
        .where(link.router_id.in_(ids), link.port_type == constants.DEVICE_OWNER_ROUTER_INTF)
    )
    found: dict[str, list[tuple[str, str]]] = {router: [] for router in ids}
    with db_api.CONTEXT_READER.using(context):
        for router, port_id, network in context.session.execute(query):
            found[router].append((port_id, network))
    return found


def is_routers(owner: str, providers: Collection[str], port: Any) -> Any:
    """An SQL condition: ``port`` (the model) is such a port (``device_owner``) of a router that one of the providers has."""
    link, ours = l3_models.RouterPort, ProviderResourceAssociation
    return sa.exists().where(
        link.port_id == port.id,
        link.port_type == owner,
        ours.resource_id == link.router_id,
        ours.provider_name.in_(providers),
    )


def is_being_written(port: Any) -> Any:
    """An SQL condition: the rows of ``port`` (the model), or of the router whose interface it is, have yet to be written."""
    link, entry = l3_models.RouterPort, JournalEntry
    return sa.or_(
        sa.exists().where(entry.object_id == port.id),
        sa.exists().where(link.port_id == port.id, entry.object_id == link.router_id),
    )
