"""``dragonflow show``: what stands in the DF DB, for people and for scripts."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from itertools import combinations
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from dragonflow.cli.common import ConfigFiles, Contents, Json, StoreUrl, fail, print_rows, read, store_url
from dragonflow.config import CONTROLLER_OPTS, GROUP, ConfigError, load
from dragonflow.model import TUNNEL_TYPES, Alive, Binding, Chassis, LogicalPort, LogicalSwitch, PortStatus, Subnet
from dragonflow.observe.control import ControlError, ask

app = typer.Typer(no_args_is_help=True, help="Show what the DF DB holds.")


@app.command()
def ports(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Logical ports, where they are bound, and what their chassis says of them."""
    contents = read(store_url(config_file, store))
    statuses = {(row.id, row.chassis): row for row in contents.of(PortStatus)}
    names = {row.id: row.name or row.id for row in contents.of(LogicalSwitch)}
    rows = [_port(port, names, statuses) for port in contents.of(LogicalPort)]
    columns = ["id", "name", "network", "mac", "ips", "chassis", "status", "reason"]
    print_rows(f"{len(rows)} ports at revision {contents.revision}", rows, columns, as_json=as_json)


def _port(port: LogicalPort, names: dict[str, str], statuses: dict[tuple[str, str], PortStatus]) -> dict[str, Any]:
    status = statuses.get((port.id, port.chassis or ""))
    current = status is not None and status.generation == port.generation
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
        "status": status.status if status and current else None,
        "reason": status.reason or None if status and current else None,
        "confirmed_revision": status.revision if status and current else None,
    }


@app.command()
def port(
    port_id: Annotated[str, typer.Argument(metavar="ID", help="A Neutron port's id; its beginning will do.")],
    config_file: ConfigFiles = None,
    store: StoreUrl = None,
    control_socket: Annotated[
        str | None, typer.Option(help="The control socket of a controller, to ask how it sees the port.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One port: its row, its bindings, what each chassis says of it and why, and how this host's controller sees it."""
    contents = read(store_url(config_file, store))
    found = [row for row in contents.of(LogicalPort) if row.id.startswith(port_id)]
    if len(found) != 1:
        raise fail(f"{'several ports begin' if found else 'no port of the DF DB begins'} with {port_id}")
    (row,) = found
    shown: dict[str, Any] = {
        "port": msgspec.to_builtins(row),
        "bindings": [msgspec.to_builtins(it) for it in contents.of(Binding) if it.id == row.id],
        "statuses": [_status(it, row) for it in contents.of(PortStatus) if it.id == row.id],
        "here": _here(row.id, config_file, control_socket),
    }
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    _print_port(row, shown)


def _status(status: PortStatus, port: LogicalPort) -> dict[str, Any]:
    """A status row, and whose word it is: only that of the present host, for the present binding, counts for the port."""
    if status.generation != port.generation:
        counts = f"not: it speaks of binding {status.generation}, the present one is {port.generation}"
    elif status.chassis == port.chassis:
        counts = "yes"
    else:
        counts = "not yet: prepared there" if status.chassis in port.standby else "not: the port is bound elsewhere"
    return {
        "chassis": status.chassis,
        "status": status.status,
        "reason": status.reason or None,
        "counts": counts,
        "age": round(max(0.0, time.time() - status.at), 1),
        "confirmed_revision": status.revision,
    }


def _here(port_id: str, config_file: list[str] | None, control_socket: str | None) -> dict[str, Any]:
    """What this host's controller knows of the port; an error in words if none answers."""
    try:
        path = control_socket or load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket
        answer: dict[str, Any] = ask(path, "port", port_id)
    except (ConfigError, ControlError) as error:
        return {"error": str(error)}
    return answer


def _print_port(port: LogicalPort, shown: dict[str, Any]) -> None:
    console = Console(highlight=False)
    facts = {
        "name": port.name,
        "network": port.network,
        "mac": port.mac,
        "ips": " ".join(port.ips),
        "switched on": "yes" if port.admin_up else "no",
        "bound to": port.chassis or "no chassis",
        "prepared on": " ".join(port.standby),
        "binding": f"{port.generation} ({port.vif_type})",
    }
    console.print(f"[bold]port {escape(port.id)}[/]", soft_wrap=True)
    for name, text in facts.items():
        console.print(f"  {name:<12} {escape(text) or '-'}", soft_wrap=True)
    columns = ["chassis", "status", "reason", "age", "counts"]
    print_rows("what chassis say of it (age in seconds)", shown["statuses"], columns, as_json=False)
    here = shown["here"]
    console.print("[bold]this host's controller[/]")
    if "error" in here:
        console.print(f"  {escape(here['error'])}", soft_wrap=True)
        return
    place = here["place"]
    console.print(f"  place        {escape(_words(place)) if place else 'none'}", soft_wrap=True)
    for name in ("said", "degraded"):
        if here[name]:
            console.print(f"  {name:<12} {escape(_words(here[name]))}", soft_wrap=True)
    probe = here["probe"]
    if probe is None:
        console.print("  probe        none")
        return
    age = max(0.0, time.time() - probe["at"])
    console.print(f"  probe        {probe['verdict']}, {age:.1f} s ago", soft_wrap=True)
    for line in (probe["reason"], *probe["trace"]):
        if line:
            console.print(f"    {escape(line)}", soft_wrap=True)


def _words(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))
    return str(values)


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
            "bridge": row.bridge,
            "datapath_type": row.datapath_type,
            "version": row.version,
            "ports": len(bound[row.id]),
        }
        for row in contents.of(Chassis)
    ]
    columns = ["name", "alive", "tunnel_ip", "tunnel_types", "bridge_mappings", "ports", "version"]
    print_rows(f"{len(rows)} chassis at revision {contents.revision}", rows, columns, as_json=as_json)


@app.command()
def tunnels(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Which chassis speak to each other through tunnels, and for which networks."""
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
        }
        for (kind, one, other), names in sorted(pairs.items())
    ]
    columns = ["type", "chassis", "vtep", "peer", "peer_vtep", "networks"]
    print_rows(f"{len(rows)} tunnels at revision {contents.revision}", rows, columns, as_json=as_json)


def _ports_by_chassis(contents: Contents) -> dict[str, list[LogicalPort]]:
    bound: dict[str, list[LogicalPort]] = defaultdict(list)
    for port in contents.of(LogicalPort):
        if port.chassis:
            bound[port.chassis].append(port)
    return bound
