"""``dragonflow show``: what stands in the DF DB, for people and for scripts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import typer

from dragonflow.cli.common import ConfigFiles, Contents, Json, StoreUrl, print_rows, read, store_url
from dragonflow.model import (
    PHYSICAL_TYPES,
    TUNNEL_TYPES,
    Alive,
    Chassis,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    PortStatus,
    Subnet,
    TunnelState,
    remote_chassis,
    remote_vtep,
)

app = typer.Typer(no_args_is_help=True, help="Show what the DF DB holds.")


@app.command()
def ports(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Logical ports, where they are bound, and what their chassis says of them."""
    contents = read(store_url(config_file, store))
    statuses = {(row.id, row.chassis): row for row in contents.of(PortStatus)}
    names = {row.id: row.name or row.id for row in contents.of(LogicalSwitch)}
    serving = _serving(contents)
    rows = [_port(port, names, statuses, serving.get(port.id)) for port in contents.of(LogicalPort)]
    columns = ["id", "name", "network", "mac", "ips", "chassis", "status", "reason"]
    print_rows(f"{len(rows)} ports at revision {contents.revision}", rows, columns, as_json=as_json)


def _port(
    port: LogicalPort, names: dict[str, str], statuses: dict[tuple[str, str], PortStatus], serving: str | None
) -> dict[str, Any]:
    abroad = remote_vtep(port.chassis) is not None
    status = statuses.get((port.id, serving or "")) if abroad else _word_of(port.id, port, statuses)
    return {
        "id": port.id,
        "name": port.name,
        "network": names.get(port.network, port.network),
        "network_id": port.network,
        "project": port.project,
        "key": port.key,
        "mac": port.mac,
        "ips": list(port.ips),
        "device_owner": port.device_owner,
        "admin_up": port.admin_up,
        "chassis": port.chassis,
        "generation": port.generation,
        "status": status.status if status else None,
        "reason": status.reason or None if status else None,
        "confirmed_revision": status.revision if status else None,
    }


@app.command()
def networks(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Logical switches with their subnets and the number of their ports."""
    contents = read(store_url(config_file, store))
    subnets: dict[str, list[str]] = defaultdict(list)
    count: dict[str, int] = defaultdict(int)
    for subnet in contents.of(Subnet):
        subnets[subnet.network].append(subnet.cidr)
    for port in contents.of(LogicalPort):
        count[port.network] += 1
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "project": row.project,
            "key": row.key,
            "type": row.network_type,
            "physical_network": row.physical_network,
            "segmentation_id": row.segmentation_id,
            "mtu": row.mtu,
            "admin_up": row.admin_up,
            "subnets": subnets[row.id],
            "ports": count[row.id],
        }
        for row in contents.of(LogicalSwitch)
    ]
    columns = ["id", "name", "key", "type", "segmentation_id", "mtu", "subnets", "ports"]
    print_rows(f"{len(rows)} networks at revision {contents.revision}", rows, columns, as_json=as_json)


@app.command()
def routers(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Logical routers: their addresses in each network, who answers there on physical ones, their gateways and extra routes."""
    contents = read(store_url(config_file, store))
    serving = _serving(contents)
    names = {row.id: row.name or row.id for row in contents.of(LogicalSwitch)}
    ports = {port.id: port for port in contents.of(LogicalPort)}
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "project": row.project,
            "key": row.key,
            "admin_up": row.admin_up,
            "interfaces": [
                f"{names.get(each.network, each.network)}: {' '.join(ports[each.port].ips)}"
                if each.port in ports
                else f"{names.get(each.network, each.network)}: no port {each.port}"
                for each in row.interfaces
            ],
            "doorkeepers": [
                f"{names.get(port.network, port.network)}: {chassis or 'none'}"
                for port, chassis in _doorkeepers(row, contents)
            ],
            "gateway": None
            if row.gateway is None
            else f"{names.get(row.gateway.network, row.gateway.network)}: "
            + (" ".join(ports[row.gateway.port].ips) if row.gateway.port in ports else f"no port {row.gateway.port}"),
            "gateway_chassis": None if row.gateway is None else serving.get(row.gateway.port),
            "snat_addresses": [f"{chassis}: {address}" for chassis, address in _own_addresses(row, contents)],
            "routes": [f"{route.destination} via {route.nexthop}" for route in row.routes],
        }
        for row in contents.of(LogicalRouter)
    ]
    columns = ["id", "name", "key", "admin_up", "interfaces", "doorkeepers", "gateway", "gateway_chassis"]
    columns += ["snat_addresses", "routes"]
    print_rows(f"{len(rows)} routers at revision {contents.revision}", rows, columns, as_json=as_json)


def _doorkeepers(router: LogicalRouter, contents: Contents) -> Iterator[tuple[LogicalPort, str | None]]:
    """The router's interfaces on physical networks, and for each the chassis that answers for it there."""
    from dragonflow.apps.wiring import doorkeeper  # noqa: PLC0415 - the apps take time to load
    from dragonflow.controller.expect import Rows  # noqa: PLC0415

    known = Rows(contents.rows)
    for interface in router.interfaces:
        port, network = known.get(LogicalPort, interface.port), known.get(LogicalSwitch, interface.network)
        if port is not None and network is not None and network.network_type in PHYSICAL_TYPES:
            yield port, doorkeeper(port, network, known)


def _own_addresses(router: LogicalRouter, contents: Contents) -> Iterator[tuple[str, str]]:
    """The chassis with an address of their own where the router's gateway leads, under which their guests behind it leave."""
    from dragonflow.apps.wiring import bridge_of, own_address  # noqa: PLC0415 - the apps take time to load
    from dragonflow.controller.expect import Rows  # noqa: PLC0415

    known = Rows(contents.rows)
    network = None if router.gateway is None else known.get(LogicalSwitch, router.gateway.network)
    if router.gateway is None or not router.gateway.enable_snat or network is None:
        return
    for chassis in contents.of(Chassis):
        address = own_address(network, chassis.snat_addresses, known)
        if address is not None and bridge_of(network, chassis.bridge_mappings) is not None:
            yield chassis.id, address


def _serving(contents: Contents) -> dict[str, str]:
    """By port, of what is bound nowhere: the chassis that says that it serves it. Of two, who lives, or else spoke last."""
    alive = {row.id for row in contents.of(Alive)}
    said = [row for row in contents.of(PortStatus) if row.generation == 0 and row.status == "ACTIVE"]
    return {row.id: row.chassis for row in sorted(said, key=lambda row: (row.chassis in alive, row.at))}


@app.command(name="floating-ips")
def floating_ips(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Floating IPs: for whom they stand, where they are served, and the ports that they forward."""
    contents = read(store_url(config_file, store))
    names = {row.id: row.name or row.id for row in contents.of(LogicalSwitch)}
    ports = {port.id: port for port in contents.of(LogicalPort)}
    said, serving = {(row.id, row.chassis): row for row in contents.of(PortStatus)}, _serving(contents)
    rows = [
        {
            "id": row.id,
            "address": row.address,
            "mac": ports[row.port].mac if row.port in ports else None,
            "network": names.get(row.network, row.network),
            "project": row.project,
            "router": row.router,
            "fixed_port": row.fixed_port,
            "fixed_ip": row.fixed_ip,
            "forwards": [
                f"{each.protocol} {_ports(each.external_first, each.external_last)} to "
                f"{each.ip} {_ports(each.internal_first, each.internal_last)}"
                for each in row.forwardings
            ],
            "served_on": _served_on(row, ports, said, serving),
        }
        for row in contents.of(FloatingIp)
    ]
    columns = ["id", "address", "mac", "network", "fixed_ip", "forwards", "served_on"]
    print_rows(f"{len(rows)} floating IPs at revision {contents.revision}", rows, columns, as_json=as_json)


def _served_on(
    floating: FloatingIp,
    ports: dict[str, LogicalPort],
    said: dict[tuple[str, str], PortStatus],
    serving: dict[str, str],
) -> str | None:
    """Where it is served: where the port is that it stands for, or who holds the address that this reserves; or if it forwards
    ports, where its router's gateway is."""
    if floating.fixed_port is None:
        return serving.get(floating.port) if floating.forwardings else None
    fixed = ports.get(floating.fixed_port)
    if fixed is not None and fixed.chassis is None:
        return serving.get(floating.port)
    status = None if fixed is None else _word_of(floating.port, fixed, said)
    return status.chassis if status is not None and status.status == "ACTIVE" else None


def _word_of(port: str, bound: LogicalPort, said: dict[tuple[str, str], PortStatus]) -> PortStatus | None:
    """What the chassis of a bound port says of a port, if that is about its present binding."""
    status = said.get((port, bound.chassis or ""))
    return status if status is not None and status.generation == bound.generation else None


def _ports(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


@app.command()
def chassis(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Hosts, whether their controllers are alive, and what they offer."""
    contents = read(store_url(config_file, store))
    alive = {row.id for row in contents.of(Alive)}
    bound = _ports_by_chassis(contents)
    rows = [
        {
            "name": row.id,
            "alive": row.id in alive,
            "tunnel_ip": row.tunnel_ip,
            "tunnel_types": list(row.tunnel_types),
            "bridge_mappings": [f"{mapping.physical_network}:{mapping.bridge}" for mapping in row.bridge_mappings],
            "gateway": row.gateway,
            "snat_addresses": list(row.snat_addresses),
            "bridge": row.bridge,
            "datapath_type": row.datapath_type,
            "version": row.version,
            "ports": len(bound[row.id]),
        }
        for row in contents.of(Chassis)
    ]
    columns = [
        "name",
        "alive",
        "tunnel_ip",
        "tunnel_types",
        "bridge_mappings",
        "gateway",
        "snat_addresses",
        "ports",
        "version",
    ]
    print_rows(f"{len(rows)} chassis at revision {contents.revision}", rows, columns, as_json=as_json)


@app.command()
def tunnels(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Which chassis speak to each other through tunnels, and for which networks; and how those to other regions are."""
    contents = read(store_url(config_file, store))
    switches = {row.id: row for row in contents.of(LogicalSwitch) if row.network_type in TUNNEL_TYPES}
    hosts = {row.id: row for row in contents.of(Chassis)}
    members: dict[str, set[str]] = defaultdict(set)
    for name, bound in _ports_by_chassis(contents).items():
        for port in bound:
            if name in hosts and port.network in switches:
                members[port.network].add(name)
    pairs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for network, names in members.items():
        for one, other in combinations(sorted(names), 2):
            pairs[switches[network].network_type, one, other].append(switches[network].name or network)
    rows = [
        {
            "type": kind,
            "chassis": one,
            "vtep": hosts[one].tunnel_ip,
            "peer": other,
            "peer_vtep": hosts[other].tunnel_ip,
            "networks": sorted(names),
            **dict.fromkeys(("up", "rtt_ms", "mtu", "at")),
        }
        for (kind, one, other), names in sorted(pairs.items())
    ]
    rows += _to_other_regions(contents)
    columns = ["type", "chassis", "vtep", "peer", "peer_vtep", "networks", "up", "rtt_ms", "mtu"]
    print_rows(f"{len(rows)} tunnels at revision {contents.revision}", rows, columns, as_json=as_json)


def _to_other_regions(contents: Contents) -> Iterator[dict[str, Any]]:
    """What chassis have written of their tunnels there; ``peer`` is the region, as far as its ports name it."""
    from dragonflow.apps.wiring import remote_end  # noqa: PLC0415 - the apps take time to load

    switches = {row.id: row for row in contents.of(LogicalSwitch)}
    hosts = {row.id: row for row in contents.of(Chassis)}
    bound = _ports_by_chassis(contents)
    for state in sorted(contents.of(TunnelState), key=lambda row: row.id):
        ports = [port for port in bound[remote_chassis(state.remote_ip)] if port.network in switches]
        named = sorted({port.remote.region for port in ports if port.remote is not None and port.remote.region})
        yield {
            "type": "+".join(sorted({remote_end(port, switches[port.network])[0] for port in ports})),
            "chassis": state.chassis,
            "vtep": hosts[state.chassis].tunnel_ip if state.chassis in hosts else None,
            "peer": f"region {' '.join(named)}".strip(),
            "peer_vtep": state.remote_ip,
            "networks": sorted({switches[port.network].name or port.network for port in ports}),
            "up": state.up,
            "rtt_ms": state.rtt_ms,
            "mtu": state.mtu,
            "at": state.at,
        }


def _ports_by_chassis(contents: Contents) -> dict[str, list[LogicalPort]]:
    bound: dict[str, list[LogicalPort]] = defaultdict(list)
    for port in contents.of(LogicalPort):
        if port.chassis:
            bound[port.chassis].append(port)
    return bound
