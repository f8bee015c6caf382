"""What an orchestrator of many regions costs: memory, its first work, an idle hour's load, and how soon a change is everywhere.

Regions are simulated in the same process (``dragonflow.testing.clouds``): no HTTP, no Neutron, no database. So this is the
orchestrator's own share; what each look costs a region's Neutron is said in docs/operate/orchestrator.md.

    python bench/orchestrator.py [--regions 64] [--ports 1000] [--period 5] [--seconds 30]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import statistics
import time
import tracemalloc
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dragonflow.regions.cloud import Agent, FixedIp, Network, Pool, Port, Subnet
from dragonflow.regions.consent import Place, tag
from dragonflow.regions.orchestrator import Orchestrator
from dragonflow.regions.settings import Settings
from dragonflow.regions.view import OWNER, Underlay, read
from dragonflow.testing.clouds import FakeCloud

IDS = itertools.count(1)


class Wired(FakeCloud):
    """Hands out what it holds by way of JSON, as a real one does, so readers have objects of their own."""

    last_name = ""

    def _read(self, objects: Mapping[str, Any], filters: Mapping[str, Any]) -> list[Any]:
        found = super()._read(objects, filters)
        return msgspec.json.decode(msgspec.json.encode(found), type=list[type(found[0])]) if found else []

    def _check(self, port: Port) -> None:
        """No two addresses clash here, and to look for that would cost more than what is measured."""

    def update_port(self, port: str, changes: Mapping[str, Any]) -> Port:
        made = super().update_port(port, changes)
        self.last_name = made.name
        return made


def settled(orchestrator: Orchestrator) -> bool:
    """Whether all regions were seen, and nothing was to be done in any."""
    return all(not it.condition.plan.steps and it.condition.right for it in orchestrator.workers.values())


def new_id() -> str:
    return str(uuid.UUID(int=next(IDS)))


def memory() -> float:
    """Resident memory in MB."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def until(condition: Callable[[], bool], seconds: float = 600.0) -> float:
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > seconds:
            raise TimeoutError
        time.sleep(0.05)
    return time.perf_counter() - began


def make(regions: int, own: int) -> tuple[dict[str, Wired], list[Place]]:
    """Regions that all stretch one network over all others, with so many ports of their own each."""
    clouds = {f"r{number:02}": Wired(f"r{number:02}", lambda: "2026-01-01T00:00:00Z") for number in range(regions)}
    places = [Place(name, new_id()) for name in clouds]
    for number, place in enumerate(places):
        cloud = clouds[place.region]
        cloud.all_agents["h"] = Agent(id="h", host="h", configurations={"tunneling_ip": f"198.51.100.{number + 1}"})
        tags = tuple(tag(peer) for peer in places if peer != place)
        network = {"network_type": "geneve", "segmentation_id": number + 1, "mtu": 1442, "tags": tags}
        cloud.all_networks[place.network] = Network(id=place.network, project_id="p", **network)
        pool = Pool(address(number, 1), address(number, 500))
        subnet = Subnet(
            id=new_id(), network_id=place.network, cidr="10.0.0.0/8", ip_version=4, allocation_pools=(pool,)
        )
        cloud.all_subnets[subnet.id] = subnet
        for last in range(1, own + 1):
            boot(cloud, place, number, last)
    return clouds, places


def address(number: int, last: int) -> str:
    return f"10.{number}.{last // 250}.{last % 250 + 1}"


def boot(cloud: FakeCloud, place: Place, number: int, last: int) -> Port:
    (subnet,) = cloud.all_subnets.values()
    port = Port(
        id=new_id(),
        network_id=place.network,
        project_id="p",
        device_owner="compute:nova",
        mac_address=f"02:00:{number:02x}:00:{last >> 8:02x}:{last & 255:02x}",
        fixed_ips=(FixedIp(subnet.id, address(number, last)),),
        port_security_enabled=True,
        security_groups=(cloud.default_group("p"),),
        host="h",
        status="ACTIVE",
        created_at="2026-01-01T00:00:00Z",
    )
    return cloud.plug(port)


def change(running: Orchestrator, clouds: Mapping[str, Wired], places: list[Place], seconds: float) -> dict[str, float]:
    """One port's name at a time, once a second or as fast as it gets everywhere."""
    cpu, began, took = time.process_time(), time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        cloud = clouds[places[len(took) % len(places)].region]
        port = next(it for it in cloud.all_ports.values() if it.device_owner != OWNER)
        wanted = f"name{len(took)}"
        cloud.plug(msgspec.structs.replace(port, name=wanted))
        running.hint(cloud.name)
        others = [it for it in clouds.values() if it is not cloud]
        took.append(until(lambda wanted=wanted, others=others: all(it.last_name == wanted for it in others)))
        time.sleep(max(0.0, 1.0 - took[-1]))
    return {
        "changes": len(took),
        "change_cpu_seconds": (time.process_time() - cpu) / len(took),
        "change_everywhere_p50_seconds": statistics.median(took),
        "change_everywhere_max_seconds": max(took),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--regions", type=int, default=64)
    parser.add_argument("--ports", type=int, default=1000, help="of other regions, in each")
    parser.add_argument("--period", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement of load")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    own = round(arguments.ports / (arguments.regions - 1))
    clouds, places = make(arguments.regions, own)
    total = own * (arguments.regions - 1) * arguments.regions
    figures: dict[str, float | int] = {"regions": arguments.regions, "remote_ports": total}
    settings = Settings(regions=dict.fromkeys(clouds, Underlay()), period=arguments.period, concurrency=1)

    cpu = time.process_time()
    running = Orchestrator(settings, clouds.__getitem__)
    running.start()
    figures["join_seconds"] = until(lambda: sum(cloud.writes for cloud in clouds.values()) >= total)
    until(partial(settled, running))
    figures["join_cpu_seconds"] = time.process_time() - cpu
    running.stop()

    tracemalloc.start()
    views = {name: read(cloud, Underlay()) for name, cloud in clouds.items()}
    figures["views_mb"] = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    del views, running
    restarted = Orchestrator(settings, clouds.__getitem__)
    began = time.perf_counter()
    restarted.start()
    until(lambda: settled(restarted))
    figures["take_over_seconds"] = time.perf_counter() - began
    time.sleep(arguments.period)
    figures["process_mb"] = memory()  # simulated regions included

    cpu = time.process_time()
    time.sleep(arguments.seconds)
    figures["idle_cpu_percent"] = 100 * (time.process_time() - cpu) / arguments.seconds

    figures |= change(restarted, clouds, places, arguments.seconds)
    restarted.stop()
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
