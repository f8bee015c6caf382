"""What Neutron's database says now, as functions that make rows: the side that is always right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from neutron.objects import ports as port_objects
from neutron_lib import constants, exceptions
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg

from dragonflow.model import (
    EXTERNAL_SCOPE,
    AddressGroup,
    Binding,
    ExternalNetwork,
    FloatingIp,
    GroupMember,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    QosPolicy,
    Row,
    SecurityGroup,
    Subnet,
    address_group_scope,
    host_scope,
    members_scope,
    network_scope,
    qos_scope,
    router_scope,
    security_group_scope,
)
from dragonflow.neutron import db, l3, qos, translate
from dragonflow.neutron.db import ADDRESS_GROUP_KIND, FLOATING_KIND, QOS_KIND, ROUTER_KIND, SECURITY_GROUP_KIND
from dragonflow.store.keys import NETWORK, PORT, ROUTER, Pool
from dragonflow.store.protocol import Key

NETWORK_KIND, SUBNET_KIND, PORT_KIND = "network", "subnet", "port"

RowMaker = Callable[[int], Row]
"""Takes the object's key (0 for kinds that have none) and makes its row."""


class Kind(NamedTuple):
    """A kind of Neutron object: the row that it becomes, the pool of its key, and the scope that follows from its parent's id."""

    row: type[Row]
    pool: Pool | None
    scope: Callable[[str], str] = network_scope


KINDS = {
    QOS_KIND: Kind(QosPolicy, None, qos_scope),
    ADDRESS_GROUP_KIND: Kind(AddressGroup, None, address_group_scope),
    SECURITY_GROUP_KIND: Kind(SecurityGroup, None, security_group_scope),
    NETWORK_KIND: Kind(LogicalSwitch, NETWORK),
    SUBNET_KIND: Kind(Subnet, None),
    PORT_KIND: Kind(LogicalPort, PORT),
    ROUTER_KIND: Kind(LogicalRouter, ROUTER, router_scope),
    FLOATING_KIND: Kind(FloatingIp, None),
}
"""In the order in which they refer to each other: what is referred to comes first."""


POINTERS = {
    Binding.__name__: PORT_KIND,
    GroupMember.__name__: PORT_KIND,
    ExternalNetwork.__name__: NETWORK_KIND,
}
"""Kinds of rows that follow from an object's own (see ``translate.pointers``), and of whose."""

POINTER_SCOPES = (host_scope("*"), members_scope("*"), EXTERNAL_SCOPE)
"""Where they lie."""


def pointed(key: Key) -> str:
    """The id of the object from whose row the pointer follows."""
    return key.id.rpartition("/")[2]


class Found(NamedTuple):
    """An object of Neutron's: its kind, its parent (the network in whose scope its row lies; or itself), its row's maker."""

    kind: str
    id: str
    parent: str
    make: RowMaker

    @property
    def key(self) -> Key:
        """Where its row lies."""
        kind = KINDS[self.kind]
        return Key(kind.scope(self.parent), kind.row.__name__, self.id)


class Source(Protocol):
    """Where the present state of Neutron's objects is read."""

    def load(self, kind: str, id: str) -> RowMaker | None:
        """The object as it is now, or None if there is no such object."""
        ...

    def revision(self, kind: str, id: str) -> int | None:
        """The object's revision number now, or None if there is no such object."""
        ...


class Plugin:
    """Neutron's core plugin as a ``Source``. Every call reads in a transaction of its own, so never old news."""

    def load(self, kind: str, id: str) -> RowMaker | None:
        """See ``Source``."""
        context = get_admin_context()
        plugin = directory.get_plugin()
        try:
            with db_api.CONTEXT_READER.using(context):
                match kind:
                    case "network":
                        return network_maker(plugin.get_network(context, id))
                    case "subnet":
                        return subnet_maker(plugin.get_subnet(context, id))
                    case "port":
                        port = plugin.get_port(context, id)
                        others = port_objects.PortBinding.get_objects(context, port_id=id, status=constants.INACTIVE)
                        part = trunkings(context, [id]).get(id)
                        return port_maker(port, db.generation(context, id), _bindings(others), part)
                    case "qos":
                        policies = qos.plugin()
                        return None if policies is None else qos_maker(policies.get_policy(context, id))
                    case _ if kind in _FINDERS:
                        return next((each.make for each in _FINDERS[kind](context, [id])), None)
        except exceptions.NotFound:
            return None
        raise ValueError(f"no such kind of Neutron object: {kind}")

    def revision(self, kind: str, id: str) -> int | None:
        """See ``Source``."""
        return db.revision(get_admin_context(), kind, id)  # type: ignore[no-any-return]

    def all(self) -> Iterator[Found]:
        """Everything there is; networks and subnets come before the ports that lie on them, then routers and floating IPs."""
        context = get_admin_context()
        plugin = directory.get_plugin()
        yield from policies(context)
        yield from address_groups(context)
        yield from security_groups(context)
        for network in plugin.get_networks(context):
            yield Found(NETWORK_KIND, network["id"], network["id"], network_maker(network))
        for subnet in plugin.get_subnets(context):
            yield Found(SUBNET_KIND, subnet["id"], subnet["network_id"], subnet_maker(subnet))
        generations = db.generations(context)
        others: dict[str, list[Any]] = {}
        for binding in port_objects.PortBinding.get_objects(context, status=constants.INACTIVE):
            others.setdefault(binding.port_id, []).append(binding)
        ports = plugin.get_ports(context)
        parts = trunkings(context, [port["id"] for port in ports])
        for port in ports:
            name = port["id"]
            bindings = _bindings(others.get(name, []))
            make = port_maker(port, generations.get(name, 0), bindings, parts.get(name))
            yield Found(PORT_KIND, name, port["network_id"], make)
        if (plugin := l3.plugin()) is not None:
            yield from routers(context, [router["id"] for router in plugin.get_routers(context, fields=["id"])])
            yield from floating_ips(context, [each["id"] for each in plugin.get_floatingips(context, fields=["id"])])


def policies(context: Any) -> Iterator[Found]:
    """The QoS policies: so few that they need no pages."""
    found = qos.plugin()
    for policy in () if found is None else found.get_policies(context):
        yield Found(QOS_KIND, policy["id"], policy["id"], qos_maker(policy))


def security_groups(context: Any, ids: Collection[str] | None = None) -> Iterator[Found]:
    """Those of the security groups that are there, or all."""
    plugin = directory.get_plugin()
    filters = {} if ids is None else {"id": list(ids)}
    rules: dict[str, list[dict[str, Any]]] = {}
    for rule in plugin.get_security_group_rules(
        context, filters={} if ids is None else {"security_group_id": list(ids)}
    ):
        rules.setdefault(rule["security_group_id"], []).append(rule)
    for group in plugin.get_security_groups(context, filters=filters, default_sg=True):
        name = group["id"]
        yield Found(SECURITY_GROUP_KIND, name, name, security_group_maker(group, rules.get(name, [])))


def address_groups(context: Any, ids: Collection[str] | None = None) -> Iterator[Found]:
    """Those of the address groups that are there, or all."""
    filters = {} if ids is None else {"id": list(ids)}
    for group in directory.get_plugin().get_address_groups(context, filters=filters):
        yield Found(ADDRESS_GROUP_KIND, group["id"], group["id"], address_group_maker(group))


def trunkings(context: Any, ids: Sequence[str]) -> Mapping[str, translate.Trunking]:
    """The parts that these ports have in trunks."""
    return {} if directory.get_plugin("trunk") is None else db.trunkings(context, ids)


def routers(context: Any, ids: Collection[str]) -> Iterator[Found]:
    """Those of the routers that are there and Dragonflow's."""
    ours = sorted(db.our_routers(context, l3.providers(), ids))
    if not ours:
        return
    interfaces = db.router_interfaces(context, ours)
    for router in l3.plugin().get_routers(context, filters={"id": ours}):
        name = router["id"]
        yield Found(ROUTER_KIND, name, name, router_maker(router, interfaces[name]))


def floating_ips(context: Any, ids: Collection[str]) -> Iterator[Found]:
    """Those of the floating IPs that are there; none where Dragonflow has no routers."""
    if not l3.providers():
        return
    for floating, forwardings in db.floating_ips(context, ids):
        yield Found(
            FLOATING_KIND, floating["id"], floating["floating_network_id"], floating_maker(floating, forwardings)
        )


def network_maker(network: dict[str, Any]) -> RowMaker:
    """Makes the row of a network as Neutron's API tells it."""
    return partial(translate.logical_switch, network, dns_domain=cfg.CONF.dns_domain or "")


def qos_maker(policy: dict[str, Any]) -> RowMaker:
    """Makes the row of a QoS policy as Neutron's API tells it."""
    return lambda _key: translate.qos_policy(policy)


def security_group_maker(group: dict[str, Any], rules: Collection[dict[str, Any]]) -> RowMaker:
    """Makes the row of a security group as Neutron's API tells it, and its rules."""
    return lambda _key: translate.security_group(group, rules)


def address_group_maker(group: dict[str, Any]) -> RowMaker:
    """Makes the row of an address group as Neutron's API tells it."""
    return lambda _key: translate.address_group(group)


def subnet_maker(subnet: dict[str, Any]) -> RowMaker:
    """Makes the row of a subnet as Neutron's API tells it."""
    return lambda _key: translate.subnet(subnet)


def port_maker(
    port: dict[str, Any],
    generation: int,
    others: Collection[translate.PortBinding],
    trunking: translate.Trunking | None,
) -> RowMaker:
    """Makes the row of a port as Neutron's API tells it; ``others`` are its inactive bindings, ``trunking`` its part in a
    trunk, if it has one."""
    return lambda key: translate.logical_port(port, key, generation, others, trunking)


def router_maker(router: dict[str, Any], interfaces: Collection[tuple[str, str]]) -> RowMaker:
    """Makes the row of a router as Neutron's API tells it; ``interfaces`` are port and network of each."""
    return lambda key: translate.logical_router(router, key, interfaces)


def floating_maker(floating: Mapping[str, Any], forwardings: Collection[Mapping[str, Any]]) -> RowMaker:
    """Makes the row of a floating IP of these columns, with the port forwardings that it has."""
    return lambda _key: translate.floating_ip(floating, forwardings)


def _bindings(objects: list[Any]) -> list[translate.PortBinding]:
    return [translate.PortBinding(each.host, each.vif_type, active=False) for each in objects]


_FINDERS: Mapping[str, Callable[[Any, Collection[str]], Iterator[Found]]] = {
    ADDRESS_GROUP_KIND: address_groups,
    SECURITY_GROUP_KIND: security_groups,
    ROUTER_KIND: routers,
    FLOATING_KIND: floating_ips,
}
"""Kinds that are read by the page, and just as well one by one."""
