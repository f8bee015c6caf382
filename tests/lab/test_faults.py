"""Bad input and broken parts, under traffic: what has been wired goes on, and what was missed is made good."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab, Vm
from dragonflow.lab.bay import Bay
from dragonflow.lab.system import wait_until
from dragonflow.model.rows import network_scope
from dragonflow.observe.control import ask
from dragonflow.store import open_store
from dragonflow.store.protocol import Delete, Key, Put, Txn

from .conftest import Cloud

pytestmark = pytest.mark.usefixtures("audited")

OUTAGE = 30.0
"""Seconds for which the DF DB is gone: longer than every lease."""


@dataclass
class Pair:
    """Two VMs of one network, on host1 and host2, ACTIVE."""

    network: dict[str, Any]
    ports: tuple[dict[str, Any], dict[str, Any]]
    vms: tuple[Vm, Vm]

    @property
    def address(self) -> str:
        """The second one's."""
        return self.vms[1].ips[0]


@pytest.fixture
def pair(cloud: Cloud) -> Pair:
    network = cloud.network("10.1.0.0/24")
    one, two = cloud.port(network, "host1"), cloud.port(network, "host2")
    vms = cloud.plug(one), cloud.plug(two)
    wait_until(lambda: cloud.active(one, two), "both ACTIVE", 20)
    return Pair(network, (one, two), vms)


@dataclass
class Traffic:
    """What a ping saw; complete only after it was stopped."""

    sent: int = 0
    received: int = 0

    @property
    def lost(self) -> int:
        return self.sent - self.received


@pytest.fixture
def traffic(lab: Lab) -> Callable[..., contextlib.AbstractContextManager[Traffic]]:
    """``with traffic(vm, address, interval) as seen:`` pings all the while; ``seen`` is filled at the end."""

    @contextlib.contextmanager
    def run(vm: Vm, address: str, interval: float = 0.001) -> Iterator[Traffic]:
        seen = Traffic()
        command = lab.vm_command(vm.port_id, ["ping", "-n", "-q", "-i", str(interval), "-W", "2", address])
        assert lab.exec(vm.port_id, "ping", "-c", "1", "-W", "2", address).returncode == 0
        pinging = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield seen
        finally:
            pinging.send_signal(signal.SIGINT)
            out, _ = pinging.communicate(timeout=20)
            sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", out)[0]
            # The last request may be under way when ping is told to end.
            seen.sent, seen.received = int(sent) - (int(sent) - int(received) == 1), int(received)

    return run


def flows(lab: Lab, host: str) -> list[str]:
    """The flows of a host's integration bridge, without counters."""
    dump = lab.host(host).switch.ofctl("dump-flows", "br-int", "--no-stats")
    return sorted(line.strip() for line in dump.splitlines() if "actions=" in line)


def address_of(port: dict[str, Any]) -> str:
    """The first address that Neutron gave a port."""
    return str(port["fixed_ips"][0]["ip_address"])


def status(lab: Lab, host: str) -> dict[str, Any]:
    """What the host's controller says of itself."""
    answer: dict[str, Any] = ask(str(lab.host(host).control_socket), "status")
    return answer


def write(lab: Lab, *writes: Put | Delete) -> None:
    """Write to the DF DB behind Neutron's back."""

    async def once() -> None:
        store = open_store(lab.region().store.url)
        try:
            await store.commit(Txn(writes=writes))
        finally:
            await store.close()

    asyncio.run(once())


def in_sync(lab: Lab, host: str) -> bool:
    """Whether the host's controller says so."""
    return bool(status(lab, host)["in_sync"])


def add_interface(lab: Lab, host: str, name: str, port_id: str, kind: str = "internal") -> None:
    options = [f"type={kind}"] if kind else []
    ids = (f"external_ids:iface-id={port_id}", "external_ids:iface-status=active")
    timeout = ["--no-wait"] if not kind else []
    lab.host(host).switch.vsctl(*timeout, "add-port", "br-int", name, "--", "set", "Interface", name, *options, *ids)


def test_an_interface_of_no_known_port_disturbs_nobody(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, pair: Pair, ping: Callable[..., bool]
) -> None:
    before = flows(lab, "host1")
    add_interface(lab, "host1", "stranger", str(uuid.uuid4()))
    try:
        late = cloud.port(pair.network, "host1")
        cloud.plug(late)
        wait_until(lambda: cloud.active(late), "a port plugged after the stranger to be ACTIVE", 20)
        assert in_sync(lab, "host1")
        lab.unplug(late["id"])
        neutron.delete(f"/ports/{late['id']}")  # as long as it is there it is a member of its security group
        wait_until(lambda: flows(lab, "host1") == before, "flows as before", 10)
        assert ping(pair.vms[0], pair.address)
    finally:
        lab.host("host1").switch.vsctl("del-port", "br-int", "stranger")


def test_of_two_interfaces_with_one_port_the_right_one_serves_and_the_other_can_go(
    lab: Lab, cloud: Cloud, pair: Pair, ping: Callable[..., bool]
) -> None:
    before = flows(lab, "host1")
    port = pair.ports[0]["id"]
    add_interface(lab, "host1", "double", port)
    try:
        wait_until(lambda: port in str(status(lab, "host1")["degraded"]), "the double to be told", 10)
        assert "double" in str(status(lab, "host1")["degraded"])
        assert flows(lab, "host1") == before  # the one with the port's MAC is served on
        assert cloud.active(pair.ports[0])
        assert ping(pair.vms[0], pair.address)
    finally:
        lab.host("host1").switch.vsctl("del-port", "br-int", "double")
    wait_until(lambda: not status(lab, "host1")["degraded"], "all well again", 10)
    assert flows(lab, "host1") == before


def test_an_interface_without_a_device_yet_is_wired_when_it_comes(lab: Lab, cloud: Cloud, pair: Pair) -> None:
    late = cloud.port(pair.network, "host1")
    host = lab.host("host1")
    add_interface(lab, "host1", "late0", late["id"], kind="")
    try:
        wait_until(lambda: host.switch.vsctl("get", "Interface", "late0", "ofport").strip() == "-1", "no ofport", 10)
        assert cloud.get(late["id"])["status"] == "DOWN"
        assert lab.host_exec("host1", "ip", "link", "add", "late0", "type", "veth").returncode == 0
        # As after any repair by an operator, OVS is told to look again.
        host.switch.vsctl("set", "Interface", "late0", "external_ids:tried=again")
        wait_until(lambda: cloud.active(late), "ACTIVE once the device is there", 20)
    finally:
        host.switch.vsctl("del-port", "br-int", "late0")
        lab.host_exec("host1", "ip", "link", "del", "late0")


def test_a_port_deleted_while_it_is_plugged_leaves_no_flow(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, pair: Pair, ping: Callable[..., bool]
) -> None:
    before = {host: flows(lab, host) for host in ("host1", "host2")}
    gone = cloud.port(pair.network, "host1")
    cloud.plug(gone)
    neutron.delete(f"/ports/{gone['id']}")
    wait_until(lambda: {host: flows(lab, host) for host in before} == before, "flows as before", 20)
    assert ping(pair.vms[0], pair.address)


def test_open_vswitch_restarted_under_traffic_gets_all_its_flows_back(
    lab: Lab,
    pair: Pair,
    traffic: Callable[..., contextlib.AbstractContextManager[Traffic]],
    ping: Callable[..., bool],
) -> None:
    before = flows(lab, "host1")
    process = lab.process("ovs-host1")
    with traffic(pair.vms[0], pair.address) as seen:
        process.kill()
        process.start()
        wait_until(lambda: flows(lab, "host1") == before, "the flows again", 20)
        wait_until(lambda: ping(pair.vms[0], pair.address), "traffic again", 10)
    assert seen.lost > 0  # the data path was really gone, and the ping is one that sees it


def test_rows_that_nobody_can_read_are_left_out_and_named(lab: Lab, pair: Pair, ping: Callable[..., bool]) -> None:
    scope = network_scope(pair.network["id"])
    bad = {
        Key(scope, "LogicalPort", "corrupt"): b"\x00junk",
        Key(scope, "LogicalPort", "from-tomorrow"): b'{"schema":"LogicalPort/99","id":"from-tomorrow"}',
    }
    before = flows(lab, "host1")
    write(lab, *(Put(key, data) for key, data in bad.items()))
    try:
        wait_until(lambda: all(key.id in str(status(lab, "host1")) for key in bad), "both named by status", 20)
        assert in_sync(lab, "host1")
        assert flows(lab, "host1") == before
        assert ping(pair.vms[0], pair.address)
    finally:
        write(lab, *map(Delete, bad))
    wait_until(lambda: not any(key.id in str(status(lab, "host1")) for key in bad), "neither named any more", 20)


def test_a_killed_controller_loses_no_packet_and_its_successor_none_either(
    *,
    lab: Lab,
    cloud: Cloud,
    neutron: httpx.Client,
    pair: Pair,
    bay: Callable[[str, dict[str, Any]], Bay],
    traffic: Callable[..., contextlib.AbstractContextManager[Traffic]],
    ping: Callable[..., bool],
) -> None:
    going = cloud.port(pair.network, "host2")
    places = bay("host2", pair.network), bay("host2", pair.network)
    places[0].plug(lab.look_up(going["id"]), "region1")
    wait_until(lambda: cloud.active(going), "the third ACTIVE", 20)
    process = lab.process("controller-host1")
    with traffic(pair.vms[0], pair.address) as seen:
        process.kill()
        # Meanwhile one port goes, another comes, and none of it is known on host1.
        neutron.delete(f"/ports/{going['id']}")
        coming = cloud.port(pair.network, "host2")
        places[1].plug(lab.look_up(coming["id"]), "region1")
        wait_until(lambda: cloud.active(coming), "a port on another host ACTIVE", 20)
        process.start()
        wait_until(lambda: in_sync(lab, "host1"), "the successor in sync", 20)
        wait_until(lambda: ping(pair.vms[0], address_of(coming)), "the new port to be reached", 20)
    assert seen.sent > 500
    assert seen.lost == 0
    lab.region().wait_for_agents()


def test_a_controller_that_restarts_on_unchanged_rows_changes_no_flow(
    lab: Lab, pair: Pair, traffic: Callable[..., contextlib.AbstractContextManager[Traffic]]
) -> None:
    def aged() -> dict[str, float]:
        """Each flow with the time at which it was made: a flow that is written again is young."""
        dump = lab.host("host1").switch.ofctl("dump-flows", "br-int")
        now = time.monotonic()
        made = {}
        for line in dump.splitlines():
            found = re.search(r"duration=([\d.]+)s, (table=\d+).*?idle_age=\d+, (.*)actions=", line)
            if found:
                made[f"{found[2]} {found[3]}"] = now - float(found[1])
        return made

    before = aged()
    assert before
    process = lab.process("controller-host1")
    with traffic(pair.vms[0], pair.address) as seen:
        process.kill()
        process.start()
        wait_until(lambda: in_sync(lab, "host1"), "in sync", 20)
    after = aged()
    assert after.keys() == before.keys()
    assert [flow for flow in before if abs(after[flow] - before[flow]) > 1] == []
    assert seen.lost == 0
    lab.region().wait_for_agents()


def test_without_the_df_db_traffic_goes_on_and_what_is_made_meanwhile_works_after(
    *,
    lab: Lab,
    cloud: Cloud,
    neutron: httpx.Client,
    pair: Pair,
    bay: Callable[[str, dict[str, Any]], Bay],
    traffic: Callable[..., contextlib.AbstractContextManager[Traffic]],
    ping: Callable[..., bool],
) -> None:
    store = lab.process("store")
    places = [bay(host, pair.network) for host in ("host1", "host2")]
    doomed = cloud.port(pair.network, "host2")
    cloud.plug(doomed)
    wait_until(lambda: cloud.active(doomed), "the doomed ACTIVE", 20)
    with traffic(pair.vms[0], pair.address, 0.01) as seen:
        store.kill()
        try:
            end = time.monotonic() + OUTAGE
            made = [cloud.port(pair.network, place.host.name) for place in places]
            fresh = cloud.network("10.9.0.0/24")
            made.append(cloud.port(fresh, "host3"))
            neutron.delete(f"/ports/{doomed['id']}")
            for place, port in zip(places, made, strict=False):
                place.plug(lab.look_up(port["id"]), "region1")
            cloud.plug(made[-1])  # on a host that no packet of these passes
            time.sleep(max(0.0, end - time.monotonic()))  # the length of the outage is what is tested
        finally:
            store.start()
        wait_until(lambda: cloud.active(*made), "all that was made meanwhile to be ACTIVE", 60)
    assert seen.lost == 0
    assert ping(pair.vms[0], address_of(made[1]))
    assert ping(pair.vms[1], address_of(made[0]))
    known = ask(str(lab.host("host1").control_socket), "places")
    assert doomed["id"] not in known
    lab.region().wait_for_agents()


def test_neutron_killed_before_its_change_reached_the_df_db_still_brings_it_there(
    lab: Lab, cloud: Cloud, pair: Pair, ping: Callable[..., bool]
) -> None:
    store, server = lab.process("store"), lab.process("neutron")
    store.kill()  # so that nothing can be written between the commit and the kill
    try:
        port = cloud.port(pair.network, "host1")
        server.kill()
    finally:
        store.start()
        server.start()
    vm = cloud.plug(port)
    wait_until(lambda: cloud.active(port), "ACTIVE", 60)
    assert ping(vm, pair.address)
