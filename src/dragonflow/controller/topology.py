"""Which scopes of the DF DB this chassis needs: a function of the ports bound to it, what they name, and what routers join.

And of the routers' gateways that it could serve, if it is a gateway node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dragonflow.apps.wiring import World, bridge_of, floating_policy, gateway_policy, gateways, qos_policy, reached
from dragonflow.model import (
    ALIVE_SCOPE,
    CHASSIS_SCOPE,
    EXTERNAL_SCOPE,
    Binding,
    Chassis,
    ExternalNetwork,
    FloatingIp,
    Holder,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    SecurityGroup,
    Sharing,
    address_group_scope,
    holder_scope,
    host_scope,
    members_scope,
    network_scope,
    qos_scope,
    router_scope,
    security_group_scope,
    status_scope,
)


def needed_scopes(chassis: str, rows: World) -> set[str]:
    """The scopes that ``chassis`` has to follow, as far as the rows that it holds already tell.

    A network is followed from the moment a port of it is bound here, before the VM is plugged, so that plugging finds all rows
    in place; and dropped when the last such binding goes. Routing is done where a packet starts. So whatever routers lead to is
    followed too: the routers that have an interface in a followed network, and the networks of their other interfaces. Each
    scope that arrives may call for more; who asks again at every news comes to rest when all is there.

    Of a router's gateway the external network is followed, where its floating IPs lie, but not the routers of others there.

    A gateway node follows all external networks to which it has a way. There it finds the gateways; it follows the routers of
    those that it could serve, and what they lead to, as if it had a port behind each.

    Which of the ports that share an address of a followed network holds it, their chassis say, each in a scope of its own. Such
    an address may have a floating IP, whose policy holds where the address is.
    """
    bindings, row = rows.where(Binding, host=chassis), rows.get(Chassis, chassis)
    external = set() if row is None or not row.gateway else _external(row, rows)
    served = {port.device_id for network in external for port in _gateways(chassis, network, rows)}
    known = (router for name in served if (router := rows.get(LogicalRouter, name)) is not None)
    behind = {interface.network for router in known for interface in router.interfaces}
    networks, routers = reached(behind.union(binding.network for binding in bindings), rows)
    outside = {it.gateway.network for it in routers.values() if it is not None and it.gateway is not None}
    ports = [rows.get(LogicalPort, binding.id) for binding in bindings]
    policies = {qos_policy(port, rows.get(LogicalSwitch, port.network)) for port in ports if port is not None}
    floating = (it for binding in bindings for it in rows.where(FloatingIp, fixed_port=binding.id))
    groups = {group for port in ports if port is not None for group in port.security_groups}
    held = (
        it for holder in rows.where(Holder, chassis=chassis) for it in rows.where(FloatingIp, fixed_ip=holder.address)
    )
    policies |= {floating_policy(it, rows.get(LogicalSwitch, it.network)) for it in (*floating, *held)}
    for router in routers.values():
        policies |= _gateway_policies(router, row, rows)
    followed = networks | outside | external
    sharing = (found for network in followed if (found := rows.get(Sharing, network)) is not None)
    return {
        CHASSIS_SCOPE,
        ALIVE_SCOPE,
        host_scope(chassis),
        status_scope(chassis),
        *((EXTERNAL_SCOPE,) if row is not None and row.gateway else ()),
        holder_scope(chassis),
        *(holder_scope(other) for it in sharing for other in it.members),
        *map(network_scope, followed),
        *map(router_scope, served.union(routers)),
        *(qos_scope(policy) for policy in policies if policy is not None),
        *map(security_group_scope, groups),
        *_remote_scopes(groups, rows),
    }


def _remote_scopes(groups: Iterable[str], rows: World) -> Iterator[str]:
    """Whom the rules of these security groups name."""
    for group in groups:
        row = rows.get(SecurityGroup, group)
        for rule in () if row is None else row.rules:
            if rule.remote_group is not None:
                yield members_scope(rule.remote_group)
            elif rule.address_group is not None:
                yield address_group_scope(rule.address_group)


def _gateway_policies(router: LogicalRouter | None, chassis: Chassis | None, rows: World) -> set[str | None]:
    """Those of the router's gateway, and of floating IPs that forward ports there, if the chassis may come to serve them."""
    network = None if router is None or router.gateway is None else rows.get(LogicalSwitch, router.gateway.network)
    if router is None or network is None or chassis is None or bridge_of(network, chassis.bridge_mappings) is None:
        return set()
    forwarding = rows.where(FloatingIp, forwarding_router=router.id)
    return {gateway_policy(router.gateway, network), *(floating_policy(it, network) for it in forwarding)}


def _external(chassis: Chassis, rows: World) -> set[str]:
    """The external networks to which the chassis has a way."""
    mapped = {it.physical_network for it in chassis.bridge_mappings}
    return {it.id for it in rows.all(ExternalNetwork) if it.physical_network in mapped}


def _gateways(chassis: str, network: str, rows: World) -> Iterator[LogicalPort]:
    row = rows.get(LogicalSwitch, network)
    return iter(()) if row is None else gateways(chassis, row, rows)
