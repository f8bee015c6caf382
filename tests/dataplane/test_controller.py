"""The controller as a process: a plug, restarts, shutdowns, and what happens to its switch and its DF DB."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from running import BINDING, DRAGONFLOW, NET, PORT, Host, flow_count, status_of, until

from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import (
    Alive,
    Chassis,
    CodecError,
    FixedIP,
    LogicalPort,
    PortStatus,
    Subnet,
    encode,
)
from dragonflow.observe.control import ask
from dragonflow.store.protocol import Delete, Key, Put, Store, Txn


@pytest.fixture
def host(vswitch: VSwitch, tmp_path: Path) -> Host:
    return Host(vswitch, tmp_path)


def test_rows_and_a_plug_become_an_active_port_and_a_restart_changes_nothing(host: Host) -> None:
    host.write(NET, PORT, BINDING)
    with host.controller():
        until(lambda: host.status()["in_sync"], "the controller to be in sync")
        until(lambda: host.row("chassis", Chassis, "h1"), "the chassis to show itself")
        until(lambda: host.row("alive", Alive, "h1"), "the chassis to be alive")
        until(lambda: host.row("status:h1", PortStatus, "p1"), "a first status")
        status = host.row("status:h1", PortStatus, "p1")
        assert isinstance(status, PortStatus)
        assert status.status == "DOWN"
        host.plug()
        until(lambda: b"ACTIVE" in encode(host.row("status:h1", PortStatus, "p1") or status), "ACTIVE")
        assert ask(host.control, "places")["p1"]["kind"] == "local"
        until(lambda: host.status()["in_sync"], "the controller to be in sync again")
    assert host.row("alive", Alive, "h1") is None  # it said goodbye
    with host.controller():
        until(lambda: host.status()["in_sync"], "the second controller to be in sync")
        assert host.status()["mods_since_start"] == 0


@pytest.fixture
def active(host: Host) -> Host:
    """A host whose port p1 is plugged; a controller that starts reports it ACTIVE."""
    host.write(NET, PORT, BINDING)
    host.vswitch.add_bridge("br-int")
    host.plug()
    return host


def test_a_port_is_plugged_again_and_again_while_others_move_without_end_and_no_flow_is_missed(host: Host) -> None:
    """What is rendered while the switch is busy, and what is cut short for a plug, ends up as if all were rendered at once."""
    elsewhere = [Chassis(id=f"h{number}", tunnel_ip=f"192.0.2.{number}") for number in range(2, 6)]
    alive = [Alive(id=each.id, since=0.0) for each in elsewhere]
    host.write(NET, PORT, BINDING, *elsewhere, *alive)
    stop = threading.Event()

    async def move(store: Store) -> int:
        """Returns the last revision."""
        revision = 0
        for turn in range(10_000):
            if stop.is_set():
                break
            moved = [_elsewhere(number, turn) for number in range(10 * (turn % 10), 10 * (turn % 10) + 10)]
            revision = await store.commit(
                Txn(tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in moved))
            )
            await asyncio.sleep(0.01)
        return revision

    with host.controller(), ThreadPoolExecutor(1) as pool:
        until(lambda: host.status()["in_sync"], "the controller to be in sync")
        moving = pool.submit(host.in_store, move)
        try:
            for _ in range(5):
                host.plug()
                until(lambda: status_of(host)[0] == "ACTIVE", "ACTIVE")
                host.vswitch.vsctl("del-port", "br-int", "vm1")
                until(lambda: status_of(host)[0] == "DOWN", "DOWN")
            host.plug()
        finally:
            stop.set()
            last = moving.result()
        until(lambda: host.status()["revision"] >= last, "the last of them to be fetched")
        until(lambda: status_of(host)[0] == "ACTIVE" and host.status()["in_sync"], "ACTIVE, and all taken in")
    with host.controller():
        until(lambda: host.status()["in_sync"], "the second controller to be in sync")
        assert host.status()["mods_since_start"] == 0


def _elsewhere(number: int, turn: int) -> LogicalPort:
    return LogicalPort(
        id=f"q{number}",
        network="net",
        key=10 + number,
        mac=f"fa:16:3e:00:01:{number:02x}",
        chassis=f"h{2 + (number + turn) % 4}",
        revision=1 + turn,
    )


def test_a_shutdown_takes_the_ports_down_and_a_new_start_up_again(active: Host) -> None:
    with active.controller() as running:
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        flows = active.vswitch.ofctl("dump-flows", "br-int", "--no-stats")
        command = [DRAGONFLOW, "shutdown", "--config-file", str(active.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode, done.stdout) == (0, "1 ports reported DOWN; the controller has ended\n"), done.stderr
        assert running.wait(5) == 0
    assert status_of(active) == ("DOWN", "chassis shut down")
    assert active.row("alive", Alive, "h1") is None
    assert active.vswitch.ofctl("dump-flows", "br-int", "--no-stats") == flows
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE again")


def test_a_controller_that_is_stopped_or_killed_leaves_the_statuses(active: Host) -> None:
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        until(lambda: active.row("alive", Alive, "h1"), "the chassis to be alive")
    assert status_of(active) == ("ACTIVE", "")
    assert active.row("alive", Alive, "h1") is None


def test_what_changed_while_the_df_db_was_away_is_told_when_it_is_back(active: Host) -> None:
    path = Path(active.store_url.removeprefix("sqlite://"))
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        with away(path):
            until(lambda: active.status()["df_db"].startswith("away since "), "the controller to miss the DF DB")
            active.vswitch.vsctl("del-port", "br-int", "vm1")
            until(lambda: active.status()["statuses"] != "written", "the status to wait")
        back = time.monotonic()
        until(lambda: status_of(active)[0] == "DOWN", "DOWN")
        assert time.monotonic() - back < 5
        until(lambda: active.status()["df_db"] == "answers", "the controller to say so")


def test_a_shutdown_without_the_df_db_says_what_it_could_not_tell(active: Host) -> None:
    path = Path(active.store_url.removeprefix("sqlite://"))
    with active.controller() as running:
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        with away(path):
            command = [DRAGONFLOW, "shutdown", "--config-file", str(active.config)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert (done.returncode, done.stderr) == (2, "")
            assert "1 ports may not all be DOWN" in done.stdout
            assert running.wait(10) == 0


def test_guests_get_their_addresses_while_the_df_db_is_away(active: Host, tmp_path: Path) -> None:
    subnet = Subnet(id="s1", network="net", cidr="10.0.0.0/24", revision=1)
    active.write(msgspec.structs.replace(PORT, fixed_ips=(FixedIP("s1", "10.0.0.7"),)), subnet)
    netns = active.vswitch.netns
    assert netns is not None
    system.ip(netns, f"link set vm1 address {PORT.mac} up")
    with active.controller():
        until(lambda: "udp" in active.vswitch.ofctl("dump-flows", "br-int"), "the flows for DHCP")
        assert leased(netns, tmp_path) == "10.0.0.7"
        with away(Path(active.store_url.removeprefix("sqlite://"))):
            until(lambda: active.status()["df_db"].startswith("away since "), "the controller to miss the DF DB")
            assert leased(netns, tmp_path) == "10.0.0.7"
    assert leased(netns, tmp_path) == "", "who else could answer?"


def leased(netns: str, directory: Path) -> str:
    """The address that a DHCP client gets at vm1; empty if none."""
    script = directory / "udhcpc.sh"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip"\n')
    script.chmod(0o755)
    command = ["udhcpc", "-i", "vm1", "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", str(script)]
    done = subprocess.run(
        ["ip", "netns", "exec", netns, *command], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.strip()


@contextlib.contextmanager
def away(path: Path) -> Iterator[None]:
    """The DF DB's file is gone, and comes back as it was."""
    files = [it for it in path.parent.glob(f"{path.name}*") if it.is_file()]
    for it in files:
        it.rename(it.with_name(f"away-{it.name}"))
    try:
        yield
    finally:
        for it in files:
            it.with_name(f"away-{it.name}").rename(it)


def test_rows_that_somebody_altered_or_deleted_are_put_back(active: Host) -> None:
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        wrong = PortStatus(id="p1", chassis="h1", generation=1, status="DOWN", revision=1, at=0.0)
        active.write(wrong, PortStatus(id="p9", chassis="h1", generation=1, status="ACTIVE", revision=1, at=0.0))
        until(lambda: status_of(active) == ("ACTIVE", ""), "the altered row to be put back")
        until(lambda: active.row("status:h1", PortStatus, "p9") is None, "a row of no port to go")
        gone = (Key("chassis", "Chassis", "h1"), Key("status:h1", "PortStatus", "p1"), Key("alive", "Alive", "h1"))
        active.in_store(lambda store: store.commit(Txn(tuple(map(Delete, gone)))))
        active.in_store(lambda store: store.commit(Txn((Put(gone[1], b"{}"),))))
        until(lambda: status_of_or_none(active) == ("ACTIVE", ""), "an unreadable row to be put back")
        for kind, scope in ((Chassis, "chassis"), (Alive, "alive")):
            until(lambda kind=kind, scope=scope: active.row(scope, kind, "h1"), f"the {scope} row to be put back")


def status_of_or_none(host: Host) -> tuple[str, str] | None:
    try:
        return status_of(host)
    except CodecError:
        return None


def test_flows_are_back_two_seconds_after_a_killed_vswitchd_and_no_status_flaps(active: Host) -> None:
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        key = Key("status:h1", "PortStatus", "p1")
        before = active.in_store(lambda store: store.get(key)).revision
        flows = active.vswitch.ofctl("dump-flows", "br-int", "--no-stats").count("cookie=")
        active.vswitch.stop_vswitchd(kill=True)
        until(lambda: not active.status()["switch_connected"], "the controller to miss the switch")
        active.vswitch.start_vswitchd()
        began = time.monotonic()
        until(lambda: flow_count(active) == flows, "the flows")
        assert time.monotonic() - began < 2
        until(lambda: active.status()["in_sync"] and active.status()["probe"]["proven"] == 1, "the port to be proven")
        assert active.in_store(lambda store: store.get(key)).revision == before


def test_flows_that_somebody_deletes_are_missed_and_mended(active: Host) -> None:
    with active.controller():
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE")
        flows = flow_count(active)
        active.vswitch.ofctl("del-flows", "br-int")
        until(lambda: flow_count(active) == flows, "the flows")
        until(lambda: status_of(active) == ("ACTIVE", ""), "ACTIVE again")
        assert "port p1 doesn't work: probe" not in active.log.read_text()
        assert "port p1 doesn't work: a packet from this port was dropped in table" in active.log.read_text()
        assert "port p1 works again" in active.log.read_text()


def test_without_a_df_db_it_touches_no_flow_and_makes_none(host: Host) -> None:
    host.vswitch.add_bridge("br-int")
    host.vswitch.ofctl("add-flow", "br-int", "table=7,priority=7,actions=drop")
    with host.controller():
        until(lambda: "there is no DF DB" in host.log.read_text(), "the controller to miss the DF DB")
        assert not host.status()["in_sync"]
        assert "table=7," in host.vswitch.ofctl("dump-flows", "br-int")
        assert not Path(host.store_url.removeprefix("sqlite://")).exists()
        host.write(NET)
        until(lambda: host.status()["in_sync"], "the controller to go on when the DF DB is there")
        assert "table=7," not in host.vswitch.ofctl("dump-flows", "br-int")


def test_prometheus_is_answered(host: Host) -> None:
    host.write(NET)
    with host.controller():
        until(lambda: host.status()["in_sync"], "the controller to be in sync")
        with urllib.request.urlopen(f"http://{host.metrics}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    assert "dragonflow_in_sync 1.0" in text
    assert "dragonflow_sync_seconds_count" in text
    assert 'dragonflow_bus_messages{count="sent"}' in text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tunnel_ip = somewhere", "[df] tunnel_ip"),
        ("bridge_mappings = physnet1", "[df] bridge_mappings"),
        ("gateway = true", "[df] gateway: name the way to the external networks in [df] bridge_mappings"),
        ("tunnel_types = ipip", "tunnel_types"),
        ("store_url = paper://", "store_url"),
        ("pubsub_url = pigeon://", "pubsub_url"),
        ("lease_ttl = 0", "lease_ttl"),
        ("metrics_address = 9797", "[df] metrics_address"),
        ("dhcp_dns_servers = somewhere", "[df] dhcp_dns_servers"),
        ("dhcp_lease_time = 0", "dhcp_lease_time"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, line: str, says: str) -> None:
    config = tmp_path / "dragonflow.conf"
    given = [
        "tunnel_ip = 192.0.2.1",
        f"store_url = sqlite://{tmp_path}/x.sqlite",
        f"pubsub_url = zmq+ipc://{tmp_path}/b",
    ]
    config.write_text("[df]\n" + "\n".join([*given, line]) + "\n")
    done = subprocess.run(
        [DRAGONFLOW, "controller", "--config-file", str(config)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
