"""Live migration with Neutron's own API of several bindings, and a third VM that talks to the moving one all the while."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from dragonflow.lab import Lab, LabError, Vm
from dragonflow.lab.matrix import Matrix
from dragonflow.lab.system import wait_until

from .conftest import Cloud

pytestmark = pytest.mark.usefixtures("audited")

INTERVAL = 0.002
BEYOND_PAUSE = 0.2
"""Seconds without an answer beyond those for which the guest itself was paused. A loaded machine needs most of it."""


def bindings(neutron: httpx.Client, port: str) -> dict[str, str]:
    """Host → status of each binding."""
    return {each["host"]: each["status"] for each in neutron.get(f"/ports/{port}/bindings").json()["bindings"]}


def test_a_guest_moves_while_it_is_talked_to(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, record_property: Callable[[str, object], None]
) -> None:
    network = cloud.network("10.1.0.0/24", "fd01::/64")
    moving, still = cloud.port(network, "host1"), cloud.port(network, "host3")
    vm, watcher = cloud.plug(moving), cloud.plug(still)
    wait_until(lambda: cloud.active(moving, still), "both ACTIVE", 20)
    with Matrix([(watcher, vm, ip) for ip in vm.ips], INTERVAL) as matrix:
        began = time.monotonic()
        moved = lab.migrate(moving["id"], "host2")
        losses = matrix.lost(began)
    gap = max(loss.seconds for loss in losses)
    print(
        f"paused {moved.paused * 1000:.0f} ms, no answer for {gap * 1000:.0f} ms, wired in {moved.wired * 1000:.0f} ms"
    )
    record_property("gap_ms", gap * 1000)
    assert len(losses) == len(vm.ips), losses  # one gap each, where the guest was paused
    assert gap <= moved.paused + BEYOND_PAUSE
    wait_until(lambda: cloud.active(moving), "ACTIVE again, for ML2 says DOWN at each activation", 5)
    wait_until(lambda: bindings(neutron, moving["id"]) == {"host2": "ACTIVE"}, "one binding", 5)
    assert moved.vm.host == lab.vm(moving["id"]).host == "host2"
    assert vm.interface not in lab.host("host1").switch.vsctl("list-ports", "br-int")
    settled = time.monotonic() + 6  # longer than a reconciliation: no late word of the source may turn it
    wait_until(lambda: time.monotonic() > settled or not cloud.active(moving), "a late DOWN", 20)
    assert cloud.active(moving)


def test_it_moves_there_and_back(lab: Lab, cloud: Cloud, ping: Callable[[Vm, str], bool]) -> None:
    network = cloud.network("10.1.0.0/24")
    moving, still = cloud.port(network, "host1"), cloud.port(network, "host1")
    cloud.plug(moving)
    watcher = cloud.plug(still)
    wait_until(lambda: cloud.active(moving, still), "both ACTIVE", 20)
    for host in ("host3", "host1"):
        moved = lab.migrate(moving["id"], host)
        assert ping(watcher, moved.vm.ips[0])
        wait_until(lambda: cloud.active(moving), "ACTIVE", 10)


def test_without_a_way_to_wire_it_the_guest_stays(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[[Vm, str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonflow.lab.migration.PLUGGED_TIMEOUT", 4.0)
    network = cloud.network("10.1.0.0/24")
    moving, still = cloud.port(network, "host1"), cloud.port(network, "host3")
    cloud.plug(moving)
    watcher = cloud.plug(still)
    wait_until(lambda: cloud.active(moving, still), "both ACTIVE", 20)
    controller = lab.process("controller-host2")
    controller.stop()
    try:
        with pytest.raises(LabError):
            lab.migrate(moving["id"], "host2")
    finally:
        controller.start()
    assert bindings(neutron, moving["id"]) == {"host1": "ACTIVE"}
    assert ping(watcher, lab.vm(moving["id"]).ips[0])
    assert cloud.active(moving)
    lab.region().wait_for_agents()


def test_a_mistake_is_named(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host1")
    cloud.plug(port)
    with pytest.raises(LabError, match="on host1 already"):
        lab.migrate(port["id"], "host1")
    with pytest.raises(LabError, match="there are: host1, host2, host3"):
        lab.migrate(port["id"], "host9")
