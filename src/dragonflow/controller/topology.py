"""Which scopes of the DF DB this chassis needs: a function of the ports bound to it, policies, and what routers join."""

from __future__ import annotations

from dragonflow.apps.wiring import World, floating_policy, qos_policy, reached
from dragonflow.model import (
    ALIVE_SCOPE,
    CHASSIS_SCOPE,
    Binding,
    FloatingIp,
    LogicalPort,
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

    Of a router's gateway the external network is followed, where its floating IPs lie, but not the routers of others there.
    """
    bindings = rows.where(Binding, host=chassis)
    networks, routers = reached((binding.network for binding in bindings), rows)
    outside = {it.gateway.network for it in routers.values() if it is not None and it.gateway is not None}
    ports = (rows.get(LogicalPort, binding.id) for binding in bindings)
    policies = {qos_policy(port, rows.get(LogicalSwitch, port.network)) for port in ports if port is not None}
    floating = (it for binding in bindings for it in rows.where(FloatingIp, fixed_port=binding.id))
    policies |= {floating_policy(it, rows.get(LogicalSwitch, it.network)) for it in floating}
    return {
        CHASSIS_SCOPE,
        ALIVE_SCOPE,
        host_scope(chassis),
        status_scope(chassis),
        *map(network_scope, networks | outside),
        *map(router_scope, routers),
        *(qos_scope(policy) for policy in policies if policy is not None),
    }
