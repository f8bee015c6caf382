"""Networks over two regions, as tenants see them: how soon a new port is reached from the other region, and what a join costs.

    .venv/bin/python bench/stretch.py [--rounds 12] [--ports 1000] [--only reach|join] [--json]

Needs root. A lab of two regions, each a real Neutron and a host, and an orchestrator with hints. All on one machine: both
Neutrons and the orchestrator share its cores.

``reach``: a VM of region2 pings an address every 5 ms. A port with that address is made in region1, bound to a host, and its VM
is plugged when Neutron has answered. Timed from sending the request until the first answer is back. The guests know each
other's MACs, so that no guest's patience is measured. The floor are the two calls that must be made: a port made in either
Neutron, one after the other, timed alone.

``join``: a network with so many ports, bound to a host, is marked for one of region2; timed until region2's Neutron shows them
all; and after ``leave``, until it shows none. The floor is as many ports made there in calls of one, eight at a time, timed alone
for a tenth of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from dragonflow.lab import Lab
from dragonflow.lab.stretched import Side, announced, join, leave
from dragonflow.lab.system import wait_until
from remote_ports import Pings, _p99

NAME = "stretch"
HOST = "host1"
AT_A_TIME = 8
"""Calls to a Neutron beside each other: what the orchestrator does unless told otherwise."""

PATIENCE = 900.0


def side(lab: Lab, region: str, name: str, cidr: str, share: tuple[str, str]) -> Side:
    """A network of a region with one subnet, which gives out addresses of its own share: from the first to the last."""
    with lab.region(region).neutron.client() as neutron:
        network = neutron.post("/networks", json={"network": {"name": name}}).json()["network"]
        pool = {"start": share[0], "end": share[1]}
        subnet = {"network_id": network["id"], "ip_version": 4, "cidr": cidr, "allocation_pools": [pool]}
        neutron.post("/subnets", json={"subnet": subnet})
    return Side(region, network["id"], network["provider:segmentation_id"])


def port(of: Side, **more: Any) -> dict[str, Any]:
    """What Nova asks Neutron for."""
    body = {"network_id": of.network, "device_owner": "compute:nova", "device_id": str(uuid.uuid4())}
    return body | {"binding:host_id": HOST} | more


def make(lab: Lab, of: Side, **more: Any) -> str:
    with lab.region(of.region).neutron.client() as neutron:
        return str(neutron.post("/ports", json={"port": port(of, **more)}).json()["port"]["id"])


def delete(lab: Lab, region: str, name: str) -> None:
    with lab.region(region).neutron.client() as neutron:
        neutron.delete(f"/ports/{name}")


def mac(number: int) -> str:
    return f"fa:16:3e:90:{number >> 8:02x}:{number & 255:02x}"


def reach(lab: Lab, rounds: int) -> dict[str, list[float]]:
    """Seconds: of the two calls alone, and from the request until the other region's VM has its first answer."""
    near = side(lab, "region1", "reach", "10.92.0.0/24", ("10.92.0.10", "10.92.0.99"))
    far = side(lab, "region2", "reach", "10.92.0.0/24", ("10.92.0.110", "10.92.0.199"))
    alone = [side(lab, region, "alone", "10.93.0.0/24", ("10.93.0.10", "10.93.0.250")) for region in lab.regions]
    watcher = lab.plug(make(lab, far), HOST, region="region2")
    join(lab, (near, far))
    found: dict[str, list[float]] = {"two calls": [], "reached": []}
    for number in range(rounds + 1):
        began = time.time()
        made = [(it.region, make(lab, it)) for it in alone]
        calls = time.time() - began
        for region, name in made:
            delete(lab, region, name)
        address = f"10.92.0.{10 + number}"
        guest(lab, watcher.port_id, address, mac(number))
        pings = Pings(lab, watcher.port_id, address)
        try:
            began = time.time()
            name = make(lab, near, mac_address=mac(number), fixed_ips=[{"ip_address": address}])
            vm = lab.plug(name, HOST, region="region1")
            guest(lab, vm.port_id, watcher.ips[0], watcher.mac)
            reached = pings.first_after(began) - began
        finally:
            pings.end()
        lab.unplug(name)
        delete(lab, "region1", name)
        if number:  # the first has the tunnel made, and the stretch begin
            found["two calls"].append(calls)
            found["reached"].append(reached)
    return found


def guest(lab: Lab, vm: str, address: str, lladdr: str) -> None:
    """Have a VM know a neighbour."""
    lab.exec(vm, "ip", "neigh", "replace", address, "lladdr", lladdr, "dev", "eth0", "nud", "permanent")


def joining(lab: Lab, ports: int, say: Callable[[str], None]) -> dict[str, float]:
    """Seconds until all ports of a network are announced in the other region; until none is; and of as many calls alone."""
    near = side(lab, "region1", "many", "10.96.0.0/16", ("10.96.0.10", "10.96.127.250"))
    far = side(lab, "region2", "many", "10.96.0.0/16", ("10.96.128.10", "10.96.255.250"))
    alone = side(lab, "region2", "alone too", "10.98.0.0/16", ("10.98.0.10", "10.98.255.250"))
    say(f"{ports} ports are made in region1")
    with lab.region("region1").neutron.client() as neutron:
        for number in portions(ports, 50):
            neutron.post("/ports", json={"ports": [port(near)] * number})
    floor, few = time.monotonic(), max(ports // 10, AT_A_TIME)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda _: make(lab, alone), range(few)))
    calls = (time.monotonic() - floor) * ports / few
    found = {"calls alone": calls}
    for what, change, count in (
        ("joined", lambda: join(lab, (near, far)), ports),
        ("left", lambda: leave(lab, near), 0),
    ):
        say(f"until region2 shows {count}")
        began = time.monotonic()
        change()
        wait_until(lambda count=count: len(announced(lab, far)) == count, f"{count} ports", PATIENCE, 1.0)
        found[what] = time.monotonic() - began
    return found


def portions(whole: int, most: int) -> Iterator[int]:
    while whole > 0:
        yield min(whole, most)
        whole -= most


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--ports", type=int, default=1000)
    parser.add_argument("--only", choices=("reach", "join"))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=chosen.json)
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    result: dict[str, Any] = {}
    lab = Lab.up(NAME, hosts=1, regions=2, progress=console.print)
    try:
        if chosen.only != "join":
            result["reach"] = reach(lab, chosen.rounds)
        if chosen.only != "reach":
            result["join"] = joining(lab, chosen.ports, console.print)
    finally:
        lab.down()
    show(console, result, chosen.ports)
    if chosen.json:
        print(json.dumps(result))
    return 0


def show(console: Console, result: dict[str, Any], ports: int) -> None:
    table = Table(title="two regions", title_justify="left")
    for column in ("what", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, values in result.get("reach", {}).items():
        table.add_row(what, f"{median(values) * 1e3:.0f}", f"{_p99(values) * 1e3:.0f}")
    if table.row_count:
        console.print(table)
    for what, seconds in result.get("join", {}).items():
        console.print(f"{ports} ports, {what}: {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
