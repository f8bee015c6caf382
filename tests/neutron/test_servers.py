"""Several real Neutron processes on a real MariaDB: who leads, what faults cost, and what Nova learns."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from region import PROJECT, Region, Server, region, until

from dragonflow.model import LogicalPort, PortStatus, TunnelState, decode
from dragonflow.model import Server as ServerRow
from dragonflow.store.protocol import Delete, Key, Txn

SOON = 5.0
"""Seconds after the end of a fault within which every status must be right."""

SLACK = 10.0
"""Seconds more for a machine whose two cores others use, too."""


@pytest.fixture(scope="module")
def three() -> Iterator[Region]:
    """Three servers, two chassis, a Nova."""
    with region() as made:
        made.start_nova()
        made.start_servers(3)
        made.chassis("h1", "h2")
        until(lambda: made.leader() is not None, what="a leader")
        yield made


@pytest.fixture
def server(three: Region) -> Server:
    """One that does not lead, to ask."""
    until(lambda: three.leader() is not None, what="a leader")
    leader = three.leader()
    return next(each for each in three.servers if each is not leader and each.process.poll() is None)


@pytest.fixture
def ports(three: Region, server: Server) -> list[str]:
    """Twelve bound ports of VMs."""
    return three.ports(server, three.network(server), 12)


def owed(three: Region, where: str = "TRUE") -> int:
    with three.engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT COUNT(*) FROM df_owed_events WHERE {where}").scalar_one()


def test_statuses_are_set_and_nova_takes_each_event(three, ports):
    three.say("ACTIVE", ports)
    until(lambda: three.all_are("ACTIVE", ports), SOON + SLACK)
    until(lambda: set(ports) <= set(three.plugged()), what="Nova to know")
    assert three.refused() == []
    until(lambda: owed(three) == 0, what="all to be struck")
    three.say("DOWN", ports)
    until(lambda: three.all_are("DOWN", ports), SOON + SLACK)


def test_an_event_that_nova_was_too_dead_to_hear_arrives_when_it_is_back(three, ports):
    three.nova.kill()
    three.say("ACTIVE", ports)
    until(lambda: three.all_are("ACTIVE", ports), SOON + SLACK)
    time.sleep(2.5)  # Neutron's notifier tries for a second, and forgets
    assert not set(ports) & set(three.plugged())
    assert owed(three) == len(ports)
    three.start_nova()
    until(lambda: set(ports) <= set(three.plugged()), 15, what="Nova to know")
    until(lambda: owed(three) == 0, what="all to be struck")


def test_what_nova_refuses_is_tried_again_by_and_by(three, server):
    (port,) = three.ports(server, three.network(server), 1)
    device = server.call("get_port", port)["device_id"]
    servers = three.nova_file.with_name(three.nova_file.name + ".servers")
    servers.write_text(json.dumps({device: 422}))
    three.say("ACTIVE", [port])
    until(lambda: [line["code"] for line in three.refused() if line.get("tag") == port] == [422])
    until(lambda: owed(three) == 1)  # Neutron sends an event a little before its commit
    until(lambda: owed(three, "due > UNIX_TIMESTAMP() + 10") == 1, what="its postponement")
    servers.unlink()
    with three.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE df_owed_events SET due = 0")
    until(lambda: port in three.plugged())


def test_nova_learns_that_the_target_of_a_migration_is_wired_before_the_activation(three, server):
    (port,) = three.ports(server, three.network(server), 1)
    three.say("ACTIVE", [port])
    until(lambda: three.plugged().count(port) == 1)
    server.call("create_port_binding", port, {"binding": {"host": "h2", "vnic_type": "normal", "profile": {}}})
    until(lambda: port in {record.key.id for record in three.records("host:h2")}, 2.0, what="the standby's binding")
    three.say("ACTIVE", [port], "h2")
    until(lambda: three.plugged().count(port) == 2, what="Nova to know of the target")
    assert three.statuses([port]) == {port: "ACTIVE"}
    server.call("activate", "h2", port)
    assert three.statuses([port]) == {port: "DOWN"}
    until(lambda: port not in {record.key.id for record in three.records("host:h1")}, 2.0, what="the activation")
    three.say("ACTIVE", [port], "h2")
    until(lambda: three.statuses([port]) == {port: "ACTIVE"}, SOON + SLACK)
    assert server.call("get_port", port)["binding:host_id"] == "h2"


def test_a_port_of_another_region_is_active_while_a_chassis_says_so_and_nova_hears_nothing(three, server):
    elsewhere = {"port_key": "remote_port", "host_ip": "198.51.100.7"}
    network = three.network(server)
    body = {"network_id": network, "tenant_id": PROJECT, "admin_state_up": True, "port_security_enabled": False}
    port = server.call("create_port", {"port": {**body, "binding:profile": elsewhere}})["id"]

    def row() -> LogicalPort | None:
        record = three.dfdb.store.get(Key(f"net:{network}", "LogicalPort", port))
        return None if record is None else decode("LogicalPort", port, record.data)

    until(lambda: row() is not None and row().chassis == "RemoteChassis:198.51.100.7", what="its row")
    until(lambda: three.count("df_journal") == 0, what="the journal to be empty")
    before = server.call("get_port", port)
    for wrong, named in (
        ({"binding:profile": {**elsewhere, "host_ip": "192.0.2.2"}}, "that is chassis h2 of this region"),
        ({"binding:profile": {**elsewhere, "vni": 7}, "name": "half made"}, "unknown keys vni"),
        ({"binding:host_id": "h1", "name": "half made"}, "binding:host_id is 'h1'"),
    ):
        with pytest.raises(RuntimeError, match=named):
            server.call("update_port", port, {"port": wrong})
    assert (server.call("get_port", port), three.count("df_journal")) == (before, 0)
    assert "Mechanism driver 'df' failed" not in server.log.read_text(), "who errs is told; the log isn't"
    says = PortStatus(id=port, chassis="h1", generation=0, status="ACTIVE", revision=1, at=time.time())
    tunnel = TunnelState(id="h1/198.51.100.7", chassis="h1", remote_ip="198.51.100.7", up=True, at=time.time())
    three.put(says, tunnel)
    until(lambda: three.statuses([port]) == {port: "ACTIVE"}, SOON + SLACK)
    server.call("update_port", port, {"port": {"binding:profile": {**elsewhere, "host_ip": "2001:DB8::8"}}})
    until(lambda: row().chassis == "RemoteChassis:2001:db8::8", what="the other chassis")
    until(lambda: three.statuses([port]) == {port: "ACTIVE"}, SOON + SLACK, what="it to be ACTIVE again")
    three.dfdb.store.commit(Txn((Delete(Key(says.scope, "PortStatus", port)),)))
    until(lambda: three.statuses([port]) == {port: "DOWN"}, SOON + SLACK)
    agents = server.call("get_agents", {"host": ["h1"]})
    assert agents[0]["configurations"]["remote_tunnels"] == {"198.51.100.7": {"up": True, "rtt_ms": None, "mtu": None}}
    server.call("delete_port", port)
    until(lambda: row() is None, what="its row to go")
    assert (port in three.plugged(), owed(three)) == (False, 0)


def test_a_database_that_is_killed_and_started_again_costs_five_seconds(three, ports):
    half, other = ports[:6], ports[6:]
    three.say("ACTIVE", half)
    three.mariadb.daemon.kill()
    three.say("ACTIVE", other)
    time.sleep(3)
    three.mariadb.start()
    assert until(lambda: three.all_are("ACTIVE", ports)) < SOON + SLACK
    until(lambda: set(ports) <= set(three.plugged()), what="Nova to know")
    leader = three.leader()
    assert leader is not None
    log = leader.log.read_text()
    assert len(re.findall("df: keeping the port statuses waits", log)) <= 1, "an outage is one line"


def test_api_calls_go_on_while_the_df_db_is_away_and_all_arrives(three, server):
    network = three.network(server)
    here, away = three.home / "dfdb", three.home / "away"
    here.rename(away)
    try:
        took = []
        made = []
        for _ in range(20):
            began = time.monotonic()
            port = {"network_id": network, "tenant_id": "x" * 32, "admin_state_up": True, "binding:host_id": "h1"}
            made.append(server.call("create_port", {"port": port}))
            took.append(time.monotonic() - began)
        assert max(took) < 5.0
        assert {port["binding:vif_type"] for port in made} == {"ovs"}, "what was known of the host counts"
    finally:
        away.rename(here)
    wanted = {port["id"] for port in made}
    seconds = until(lambda: wanted <= {record.key.id for record in three.records("host:h1")})
    assert seconds < SOON + SLACK


def freeze(three: Region, server: Server) -> None:
    """SIGSTOP, but not in the midst of a write: SQLite's lock stays with who has it, asleep or not."""
    while True:
        server.signal(signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(three.home / "dfdb" / "dfdb.sqlite", timeout=0.5)) as dfdb:
            try:
                dfdb.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                server.signal(signal.SIGCONT)
        time.sleep(0.05)


def test_a_leader_that_is_frozen_is_replaced_and_does_no_harm_when_it_thaws(three, server, ports):
    leader = three.leader()
    assert leader is not None
    freeze(three, leader)
    try:
        until(lambda: three.leader() not in (None, leader), SOON + SLACK, what="another leader")
        three.say("ACTIVE", ports)
        until(lambda: three.all_are("ACTIVE", ports), SOON + SLACK)
    finally:
        leader.signal(signal.SIGCONT)
    until(lambda: "another process may lead now" in leader.log.read_text(), what="the thawed one to stand down")
    time.sleep(0.5)
    assert three.all_are("ACTIVE", ports)
    assert three.leader() is not leader


def test_a_leader_killed_in_the_middle_of_its_work_is_replaced_within_five_seconds(three, server, ports):
    rows = {decode("Server", r.key.id, r.data).id for r in three.records("server") if isinstance(r.data, bytes)}
    assert rows == {each.name for each in three.servers}
    leader = three.leader()
    assert leader is not None
    three.say("ACTIVE", ports)
    until(lambda: "ACTIVE" in three.statuses(ports).values(), what="the storm's begin")
    leader.end()
    took = until(lambda: three.leader() not in (None, leader), SOON + SLACK, what="another leader")
    assert took < SOON
    until(lambda: three.all_are("ACTIVE", ports), SOON + SLACK)
    until(lambda: set(ports) <= set(three.plugged()), what="Nova to know")
    until(lambda: leader.name not in {r.key.id for r in three.records("server")}, SOON + SLACK, what="its row to go")
    assert all(isinstance(decode("Server", r.key.id, r.data), ServerRow) for r in three.records("server"))


def test_the_agent_list_tells_the_truth_of_a_killed_controller_within_ten_seconds(three, server):
    def alive() -> dict[str, bool]:
        return {agent["host"]: agent["alive"] for agent in server.call("get_agents")}

    lease = three.chassis("h7", ttl=6.0)  # the default of lease_ttl; nobody renews it: a controller killed just now
    until(lambda: alive().get("h7"), what="the agent")
    assert until(lambda: not alive()["h7"], 15) < 10.0
    port = {"network_id": three.network(server), "tenant_id": "x" * 32, "binding:host_id": "h7", "admin_state_up": True}
    refused: list[str] = []

    def refuses() -> bool:
        created = server.call("create_port", {"port": port})
        refused.extend([created["id"]] if created["binding:vif_type"] == "binding_failed" else [])
        return bool(refused)

    assert until(refuses, 5) < 2.0, "every server hears of it for itself, some after the leader's agent list tells"
    assert "the dragonflow-controller of host h7 is not alive" in server.log.read_text()
    lease = three.chassis("h7", ttl=60.0)
    assert lease is not None
    until(lambda: server.call("get_port", refused[0])["binding:vif_type"] == "ovs", what="it to be bound after all")
    three.dfdb.store.revoke(lease)
    assert until(lambda: not alive()["h7"], 10) < 2.0, "a clean end shows at once"


def test_flaps_and_rebinding_end_in_what_the_hosts_say_last(three, server, ports):
    """Hosts flap while ports are bound to and fro; in the end every status is what the present host says."""
    stop = threading.Event()

    def flap() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for host in ("h1", "h2"):
                three.say("ACTIVE" if turn % 2 else "DOWN", ports, host, only_bound=True)

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        for number, port in enumerate(ports):
            update = {"binding:host_id": "h2"} if number % 2 else {"admin_state_up": False}
            server.call("update_port", port, {"port": update})
    finally:
        stop.set()
        flapping.join()
    moved = set(ports[1::2])
    until(lambda: moved <= {record.key.id for record in three.records("host:h2")}, what="the bindings")
    three.say("ACTIVE", ports[::2], "h1")
    three.say("ACTIVE", ports[1::2], "h2")
    wanted = {port: "ACTIVE" if port in moved else "DOWN" for port in ports}
    until(lambda: three.statuses(ports) == wanted, SOON + SLACK)
    for port in ports[::2]:
        server.call("update_port", port, {"port": {"admin_state_up": True}})
    # no host says anything new: the leader finds that by comparing, after 20 times what it took the last time (``status.SHARE``)
    until(lambda: three.all_are("ACTIVE", ports))
