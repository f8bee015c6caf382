"""The shape that a lab can have, and the TCP ports of the machine that it takes."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator

from dragonflow.lab import state
from dragonflow.lab.host import MAX_HOSTS, MAX_REGIONS
from dragonflow.lab.servers import BUSES, PORTS, STORES
from dragonflow.lab.state import RegionState, State
from dragonflow.lab.system import LabError, listed

MAX_NEUTRONS = 9
MAX_ORCHESTRATORS = 9
FIRST_PORT, LAST_PORT = 19600, 29999
"""Where ports for servers are looked for: below those that the kernel lends to clients, so they stay free while a
killed server is down."""


def check(
    store: str, bus: str, disk: int | None, *, hosts: int, regions: int, neutron_servers: int, orchestrators: int
) -> None:
    """:raises LabError: no lab can be of that shape; the message says what is possible."""
    for what, name, known in (("store", store, STORES), ("bus", bus, BUSES)):
        if name not in known:
            raise LabError(f"no {what} {name!r}; there are: {listed(known)}")
    for what, number, least, most in (
        ("hosts", hosts, 1, MAX_HOSTS),
        ("regions", regions, 1, MAX_REGIONS),
        ("Neutron servers", neutron_servers, 1, MAX_NEUTRONS),
        ("orchestrators", orchestrators, 0, MAX_ORCHESTRATORS),
    ):
        if not least <= number <= most:
            raise LabError(f"{number} {what}: {least} to {most} are possible")
    if disk is not None and (store == "sqlite" or disk < 1):
        raise LabError("a disk of its own, of at least 1 MiB, is for the stores etcd and redis")


def planned(
    name: str, store: str, bus: str, *, hosts: int, regions: int, neutron_servers: int, orchestrators: int
) -> State:
    """A lab with TCP ports for its servers that are free now; hold ``state.allocating`` until it is saved.

    :raises LabError: there are not as many free ports.
    """
    for_store = 0 if store == "sqlite" else PORTS
    for_bus = PORTS if bus == "redis" and store != "redis" else 0
    ports = iter(_free_ports(regions * (neutron_servers + 1 + for_store + for_bus) + orchestrators))

    def take(count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(ports, count))

    shape = tuple(
        RegionState(
            name=f"region{index}",
            index=index,
            hosts=tuple(f"host{number}" for number in range(1, hosts + 1)),
            neutron_ports=take(neutron_servers),
            nova_port=next(ports),
            store_ports=take(for_store),
            bus_ports=take(for_bus),
        )
        for index in range(1, regions + 1)
    )
    return State(name=name, store=store, bus=bus, regions=shape, orchestrator_ports=take(orchestrators))


def _free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody listens on and no other lab has as its own."""
    taken = set(_ports_of_labs())
    free = []
    for port in range(FIRST_PORT, LAST_PORT):
        if port not in taken and _bindable(port):
            free.append(port)
        if len(free) == count:
            return free
    raise LabError(f"no {count} free TCP ports from {FIRST_PORT} to {LAST_PORT}")


def _ports_of_labs() -> Iterator[int]:
    for name in state.names():
        with contextlib.suppress(LabError):
            yield from state.load(name).ports


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
