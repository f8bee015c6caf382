"""A live migration as Nova carries it out, with Neutron's multiple port bindings and a stand-in for the VM.

Nova (``nova/conductor/tasks/live_migrate.py``, ``nova/network/neutron.py``, ``nova/compute/manager.py``): an inactive binding for
the destination; the VIF is plugged there, and Nova waits until Neutron tells that it is wired; QEMU copies the memory and pauses
the guest; the destination's binding is activated, and the guest goes on there; the source is unplugged and its binding deleted.

The stand-in has no memory to copy. Its source and its destination are two namespaces of the same MAC and addresses, of which one
has its interface up: the guest is paused for as long as Neutron takes to activate the binding, as Nova's is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx

from dragonflow.lab import system
from dragonflow.lab.host import Host
from dragonflow.lab.region import Region
from dragonflow.lab.state import Known, Vm
from dragonflow.lab.system import LabError, TimedOut, wait_until
from dragonflow.lab.vm import INTERFACE, by_hand_alone, plug, remove, static, unplug

PLUGGED_TIMEOUT = 30.0


class Migrated(NamedTuple):
    """The VM at its destination; ``wired`` is in seconds from the plug there until Nova was told, ``paused`` without a guest."""

    vm: Vm
    wired: float
    paused: float


def migrate(region: Region, known: Known, vm: Vm, host: Host, netns: str) -> Migrated:
    """Move a VM with static addresses to a host, where it becomes namespace ``netns``. The source is gone afterwards.

    :raises LabError: Neutron refuses, or doesn't tell in time that the destination is wired; the VM stays where it was.
    """
    path = f"/ports/{vm.port_id}/bindings"
    with region.neutron.client() as neutron, _refusals(vm.port_id):
        neutron.post(path, json={"binding": {"host": host.name, "vnic_type": "normal"}})
        told = len(plugged_events(region, vm.port_id))
        destination = None
        try:
            began = time.monotonic()
            destination = plug(host, region=region.name, netns=netns, port=known.port, mtu=known.mtu, up=False)
            by_hand_alone(netns)
            _wait_until_wired(region, vm.port_id, told)
            wired = time.monotonic() - began
            pause = time.monotonic()
            system.ip(vm.netns, f"link set {INTERFACE} down")
            neutron.put(f"{path}/{host.name}/activate")
            system.ip(netns, f"link set {INTERFACE} up", *static(destination, known.subnets))
            paused = time.monotonic() - pause
        except BaseException:
            _roll_back(neutron, path, vm, host, destination)
            remove(netns)
            raise
        unplug(region.hosts[vm.host], vm)
        neutron.delete(f"{path}/{vm.host}")
    return Migrated(destination, wired, paused)


def _wait_until_wired(region: Region, port_id: str, told: int) -> None:
    try:
        wait_until(
            lambda: len(plugged_events(region, port_id)) > told, f"network-vif-plugged for {port_id}", PLUGGED_TIMEOUT
        )
    except TimedOut as error:
        raise LabError(f"{error}: the destination of the migration is not wired; it goes on where it was") from None


def plugged_events(region: Region, port_id: str) -> list[str]:
    """What Nova's stand-in has been told: one line for each time that the port was wired."""
    lines = region.nova_events.read_text().splitlines()
    return [line for line in lines if '"network-vif-plugged"' in line and port_id in line]


def _roll_back(neutron: httpx.Client, path: str, vm: Vm, host: Host, destination: Vm | None) -> None:
    """As Nova does: the guest goes on at the source, and nothing stays at the destination."""
    with contextlib.suppress(httpx.HTTPError):
        neutron.put(f"{path}/{vm.host}/activate")
    with contextlib.suppress(LabError):
        system.ip(vm.netns, f"link set {INTERFACE} up")
    if destination is not None:
        unplug(host, destination)
    with contextlib.suppress(httpx.HTTPError):
        neutron.delete(f"{path}/{host.name}")


@contextlib.contextmanager
def _refusals(port_id: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise LabError(f"migration of port {port_id}: {error}") from error
