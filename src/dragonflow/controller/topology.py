"""Which scopes of the DF DB this chassis needs: a function of the ports bound to it, their policies, and what routers join."""

from __future__ import annotations

from dragonflow.apps.wiring import World, qos_policy
from dragonflow.model import (
    CHASSIS_SCOPE,
    Binding,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    host_scope,
    network_scope,
    qos_scope,
    router_scope,
    status_scope,
)


def needed_scopes(chassis: str, rows: World) -> set[str]:
    """The scopes that ``chassis`` has to follow, as far as the rows that it holds already tell.

    A network is followed from the moment a port of it is bound here, before the VM is plugged, so that plugging finds all rows
    in place; and dropped when the last such binding goes. Routing is done where a packet starts. So whatever routers lead to is
    followed too: the routers that have an interface in a followed network, and the networks of their other interfaces. Each
    scope that arrives may call for more; who asks again at every news comes to rest when all is there.
    """
    bindings = rows.where(Binding, host=chassis)
    networks = {binding.network for binding in bindings}
    ports = (rows.get(LogicalPort, binding.id) for binding in bindings)
    policies = {qos_policy(port, rows.get(LogicalSwitch, port.network)) for port in ports if port is not None}
    routers: set[str] = set()
    reached = list(networks)
    while reached:
        for port in rows.where(LogicalPort, routed_network=reached.pop()):
            if port.device_id in routers:
                continue
            routers.add(port.device_id)
            router = rows.get(LogicalRouter, port.device_id)
            for interface in () if router is None else router.interfaces:
                if interface.network not in networks:
                    networks.add(interface.network)
                    reached.append(interface.network)
    return {
        CHASSIS_SCOPE,
        host_scope(chassis),
        status_scope(chassis),
        *map(network_scope, networks),
        *map(router_scope, routers),
        *(qos_scope(policy) for policy in policies if policy is not None),
    }
