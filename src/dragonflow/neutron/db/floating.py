"""Floating IPs in Neutron's tables: what they stand for, what decides their status, and the journal entries of their changes.

Port forwardings, and which QoS policy it has, are parts of a floating IP. As with routers (``routers``), the entries hang on the
writes to the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db.models import l3 as l3_models
from neutron.db.models import port_forwarding as forwarding_models
from neutron.db.models.servicetype import ProviderResourceAssociation
from neutron.db.qos.models import QosFIPPolicyBinding
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.listeners import WRITES, listen, write_entry, write_plain_entry
from dragonflow.neutron.db.models import PortGeneration
from dragonflow.neutron.db.retry import retry_deadlocks

FLOATING_KIND = "floatingip"

Columns = dict[str, Any]


class FloatingNow(NamedTuple):
    """What decides a floating IP's status: the host and the binding of the port that it stands for, and what Neutron shows.

    ``port`` is its own port, of which that host speaks; ``host`` is empty while it serves nobody, or a port bound nowhere.
    ``anywhere`` says that any host may serve it: it stands for no port, but forwards some of its ports; or for one that is bound
    nowhere, and reserves an address that guests share.
    """

    id: str
    port: str
    status: str
    host: str
    generation: int
    anywhere: bool = False


def listen_to_floating_ips() -> None:
    """Catch the writes to floating IPs, their port forwardings and policies."""
    for model, callback in _CALLBACKS:
        listen((model, name, callback) for name in WRITES)


def _floating_changed(_mapper: Any, connection: Any, floating: Any) -> None:
    write_plain_entry(connection, floating, FLOATING_KIND, floating.id, floating.floating_network_id)


def _forwarding_changed(_mapper: Any, connection: Any, forwarding: Any) -> None:
    _part_changed(connection, forwarding, forwarding.floatingip_id)


def _policy_changed(_mapper: Any, connection: Any, binding: Any) -> None:
    _part_changed(connection, binding, binding.fip_id)


def _part_changed(connection: Any, written: Any, name: str) -> None:
    floating = l3_models.FloatingIP
    values = sa.select(sa.literal(FLOATING_KIND), floating.id, floating.floating_network_id, Now())
    write_entry(connection, written, values.where(floating.id == name))


_Forwarding = forwarding_models.PortForwarding

_CALLBACKS = (
    (l3_models.FloatingIP, _floating_changed),
    (_Forwarding, _forwarding_changed),
    (QosFIPPolicyBinding, _policy_changed),
)


@retry_deadlocks
def floating_ips(context: Any, ids: Collection[str]) -> list[tuple[Columns, list[Columns]]]:
    """Those of the floating IPs that are there, as columns of their table, each with those of its port forwardings."""
    floating, attributes = l3_models.FloatingIP, standard_attr.StandardAttribute
    query = (
        sa.select(
            floating.id,
            floating.project_id,
            floating.floating_network_id,
            floating.floating_ip_address,
            floating.floating_port_id,
            floating.router_id,
            floating.fixed_port_id,
            floating.fixed_ip_address,
            QosFIPPolicyBinding.policy_id.label("qos_policy_id"),
            attributes.revision_number,
        )
        .join(attributes, attributes.id == floating.standard_attr_id)
        .outerjoin(QosFIPPolicyBinding, QosFIPPolicyBinding.fip_id == floating.id)
        .where(floating.id.in_(ids))
        .order_by(floating.id)
    )
    parts = sa.select(
        _Forwarding.floatingip_id,
        _Forwarding.protocol,
        _Forwarding.external_port_start,
        _Forwarding.external_port_end,
        _Forwarding.internal_neutron_port_id,
        _Forwarding.internal_ip_address,
        _Forwarding.internal_port_start,
        _Forwarding.internal_port_end,
    ).where(_Forwarding.floatingip_id.in_(ids))
    with db_api.CONTEXT_READER.using(context):
        found = [(dict(row), list[Columns]()) for row in context.session.execute(query).mappings()]
        forwardings = {columns["id"]: its for columns, its in found}
        for row in context.session.execute(parts).mappings():
            if row["floatingip_id"] in forwardings:
                forwardings[row["floatingip_id"]].append(dict(row))
    return found


def floating_now(
    context: Any, providers: Collection[str], ports: Collection[str] | None = None
) -> Iterator[FloatingNow]:
    """The floating IPs whose status is Dragonflow's to say; of all, or of those with these ports of their own.

    These are the ones that serve a router of its ``providers``, and those that serve nobody, which can't be ACTIVE.
    """
    floating, binding, ours = l3_models.FloatingIP, ml2_models.PortBinding, ProviderResourceAssociation
    bound = sa.and_(binding.port_id == floating.fixed_port_id, binding.status == constants.ACTIVE)
    forwards = sa.exists().where(_Forwarding.floatingip_id == floating.id)
    query = (
        sa.select(
            floating.id,
            floating.floating_port_id,
            floating.status,
            sa.func.coalesce(binding.host, ""),
            sa.func.coalesce(PortGeneration.generation, 0),
            sa.or_(
                sa.and_(floating.fixed_port_id.is_(None), forwards),
                sa.and_(floating.fixed_port_id.is_not(None), sa.func.coalesce(binding.host, "") == ""),
            ),
        )
        .outerjoin(binding, bound)
        .outerjoin(PortGeneration, PortGeneration.port_id == floating.fixed_port_id)
        .outerjoin(ours, ours.resource_id == floating.router_id)
        .where(sa.or_(ours.provider_name.in_(providers), floating.router_id.is_(None)))
        .order_by(floating.id)
    )
    if not providers:
        return
    if ports is not None:
        query = query.where(floating.floating_port_id.in_(ports))
    yield from _fetch(context, query)


@retry_deadlocks
def _fetch(context: Any, query: Any) -> list[FloatingNow]:
    with db_api.CONTEXT_READER.using(context):
        return [FloatingNow._make((*row[:5], bool(row[5]))) for row in context.session.execute(query)]
