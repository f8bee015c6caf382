"""The demo's story as data: two tenants on the same addresses, VMs on every chassis, and what can reach what.

Each step asks the real parts and returns what they answered; whether that is as it should be, ``failures`` says.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dragonflow.lab import system
from dragonflow.lab.lab import Lab
from dragonflow.lab.state import Vm
from dragonflow.lab.system import LabError, TimedOut, wait_until
from dragonflow.lab.vm import INTERFACE
from dragonflow.observe.control import ControlError, ask

ACTIVE_TIMEOUT = 30.0
EVENT_TIMEOUT = 20.0
PLACES_TIMEOUT = 20.0
PING_WAIT = 1
IPV4, IPV6 = 4, 6
FAMILIES = (IPV4, IPV6)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tenant:
    """A project with one network; ``first`` is the last part of its first VM's addresses."""

    name: str
    project: str
    first: int


TENANTS = (
    Tenant("amber", "a3be0000000000000000000000000001", 11),
    Tenant("blue", "b10e0000000000000000000000000002", 21),
)
SUBNETS = {IPV4: ("10.10.0.0/24", "10.10.0.1", "10.10.0.{}"), IPV6: ("fd10::/64", "fd10::1", "fd10::{}")}
"""CIDR, gateway, and the pattern of VMs' addresses; the same for both tenants, so nothing but isolation keeps them apart."""


@dataclass
class Machine:
    """A VM of the demo. Times are in seconds from the plug; None: it didn't happen in time."""

    name: str
    tenant: Tenant
    network: str
    port_id: str
    host: str
    ips: dict[int, str]
    vm: Vm | None = None
    status: str = "DOWN"
    active: float | None = None
    nova: float | None = None
    places: dict[str, str] = field(default_factory=dict)


Reached = dict[tuple[str, str, int], bool]
"""(from, to, IP version) → whether a ping came back."""


def make_tenants(lab: Lab) -> list[Machine]:
    """Make networks, subnets and ports through Neutron's API: one VM of each tenant on each host, and a second on the first.

    As in a cloud the tenant makes the port, and then Nova, an administrator, says on which host it is.
    """
    hosts = [*lab.region().hosts, next(iter(lab.region().hosts))]
    machines = []
    for tenant in TENANTS:
        with lab.region().neutron.client(project=tenant.project) as user, lab.region().neutron.client() as nova:
            body = {"network": {"name": f"{tenant.name}-net"}}
            network = user.post("/networks", json=body).json()["network"]
            subnets = {version: _subnet(user, network["id"], version) for version in FAMILIES}
            for number, host in enumerate(hosts):
                ips = {version: SUBNETS[version][2].format(tenant.first + number) for version in FAMILIES}
                fixed = [{"subnet_id": subnets[version], "ip_address": ips[version]} for version in FAMILIES]
                name = f"{tenant.name}-{number + 1}"
                port_body = {"port": {"network_id": network["id"], "name": name, "fixed_ips": fixed}}
                port = user.post("/ports", json=port_body).json()["port"]
                binding = {
                    "device_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
                    "device_owner": "compute:nova",
                    "binding:host_id": host,
                }
                nova.put(f"/ports/{port['id']}", json={"port": binding})
                machines.append(Machine(name, tenant, network["name"], port["id"], host, ips))
    return machines


def _subnet(client: Any, network: str, version: int) -> str:
    cidr, gateway, _ = SUBNETS[version]
    body = {"network_id": network, "ip_version": version, "cidr": cidr, "gateway_ip": gateway}
    return str(client.post("/subnets", json={"subnet": body}).json()["subnet"]["id"])


def plug(lab: Lab, machine: Machine) -> None:
    """Plug a VM and wait until Neutron shows its port ACTIVE; one that doesn't become so keeps its status."""
    machine.vm = lab.plug(machine.port_id, machine.host)
    with lab.region().neutron.client() as neutron:

        def active() -> bool:
            answer = neutron.get(f"/ports/{machine.port_id}", params={"fields": ["status", "binding:vif_type"]})
            port = answer.json()["port"]
            machine.status = f"{port['status']}" if port["binding:vif_type"] == "ovs" else port["binding:vif_type"]
            return bool(machine.status == "ACTIVE")

        try:
            wait_until(active, f"port {machine.port_id} to be ACTIVE", ACTIVE_TIMEOUT, 0.01)
        except TimedOut:
            return
    machine.active = time.time() - machine.vm.plugged


def collect_events(lab: Lab, machines: Sequence[Machine]) -> list[dict[str, Any]]:
    """Wait until Nova was told of every ACTIVE port, note when, and return all that it was told."""
    waiting = {machine.port_id: machine for machine in machines if machine.active is not None}

    def all_told() -> bool:
        return set(waiting) <= {event["tag"] for event in _plugged(lab)}

    with contextlib.suppress(TimedOut):  # what is missing shows in the table and in failures()
        wait_until(all_told, "events", EVENT_TIMEOUT, 0.1)
    for event in _plugged(lab):
        machine = waiting.get(event["tag"])
        if machine is not None and machine.vm is not None and machine.nova is None:
            machine.nova = event["time"] - machine.vm.plugged
    return lab.nova_events()


def _plugged(lab: Lab) -> list[dict[str, Any]]:
    return [event for event in lab.nova_events() if event["name"] == "network-vif-plugged"]


def collect_places(lab: Lab, machines: Sequence[Machine]) -> None:
    """Ask every controller where it has each port, until all know all that they should, or time is up."""

    def complete() -> bool:
        for host in lab.region().hosts.values():
            try:
                places = ask(str(host.control_socket), "places")
            except ControlError:
                return False
            for machine in machines:
                machine.places[host.name] = places.get(machine.port_id, {}).get("kind", "none")
        return all(machine.places == wanted_places(lab, machine, machines) for machine in machines)

    with contextlib.suppress(TimedOut):  # what is missing shows in the table and in failures()
        wait_until(complete, "places", PLACES_TIMEOUT, 0.1)


def wanted_places(lab: Lab, machine: Machine, machines: Iterable[Machine]) -> dict[str, str]:
    """Local on its own host, remote on the others where its network has a port, and unknown elsewhere."""
    has_network = {other.host for other in machines if other.tenant == machine.tenant}
    return {
        host: "local" if host == machine.host else "remote" if host in has_network else "none"
        for host in lab.region().hosts
    }


def ping_all(machines: Sequence[Machine], workers: int = 16) -> Reached:
    """Ping from every VM to every other one, on both IP versions.

    Of foreign VMs the sender is told the MAC address beforehand: so frames to them are really sent, not only asked for.
    """
    for machine in machines:
        _teach_foreign(machine, machines)
    jobs = [
        (source, target, version)
        for source in machines
        for target in machines
        for version in FAMILIES
        if source is not target
    ]
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: _ping(*job), jobs)
    return {
        (source.name, target.name, version): ok for (source, target, version), ok in zip(jobs, results, strict=True)
    }


def _teach_foreign(machine: Machine, machines: Iterable[Machine]) -> None:
    if machine.vm is None:
        return
    commands = [
        f"neighbour replace {ip} lladdr {other.vm.mac} dev {INTERFACE} nud permanent"
        for other in machines
        if other.tenant != machine.tenant and other.vm is not None
        for ip in other.ips.values()
    ]
    system.ip(machine.vm.netns, *commands)


def _ping(source: Machine, target: Machine, version: int) -> bool:
    if source.vm is None or target.vm is None:
        return False
    count = "3" if source.tenant == target.tenant else "1"
    command = ["ping", f"-{version}", "-n", "-q", "-c", count, "-i", "0.2", "-W", str(PING_WAIT), target.ips[version]]
    try:
        system.run(command, netns=source.vm.netns, timeout=20)
    except TimedOut:
        raise
    except LabError:  # ping's exit code is 1: no answer
        return False
    return True


def wanted(source: Machine, target: Machine) -> bool:
    """Whether one VM should reach another."""
    return source.tenant == target.tenant


def failures(lab: Lab, machines: Sequence[Machine], reached: Reached) -> list[str]:
    """What isn't as it should be, in words; empty when all is well."""
    found = []
    for machine in machines:
        if machine.active is None:
            found.append(
                f"{machine.name}: its port is {machine.status}, not ACTIVE, {ACTIVE_TIMEOUT:.0f} s after the plug"
            )
        elif machine.nova is None:
            found.append(f"{machine.name}: Nova got no network-vif-plugged")
        places = wanted_places(lab, machine, machines)
        found += [
            f"{machine.name}: the controller of {host} has it as {machine.places.get(host, 'none')!r}, not {place!r}"
            for host, place in places.items()
            if machine.places.get(host, "none") != place
        ]
    names = {machine.name: machine for machine in machines}
    for (source, target, version), ok in reached.items():
        if ok != wanted(names[source], names[target]):
            found.append(f"{source} {'reaches' if ok else 'does not reach'} {target} by IPv{version}")
    return found
