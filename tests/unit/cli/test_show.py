import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.model import (
    ROUTER_GATEWAY,
    Alive,
    Binding,
    BridgeMapping,
    Chassis,
    FixedIP,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    PortForwarding,
    PortStatus,
    RemoteEnd,
    Route,
    RouterGateway,
    RouterInterface,
    Row,
    Subnet,
    TunnelState,
    encode,
    remote_chassis,
)
from dragonflow.observe.control import ControlServer
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn

ROWS: list[Row] = [
    LogicalSwitch(id="n1", key=1, name="blue", network_type="geneve", segmentation_id=77, mtu=1442, revision=1),
    LogicalSwitch(
        id="n2",
        key=2,
        name="flat",
        network_type="flat",
        physical_network="physnet1",
        mtu=1500,
        external=True,
        revision=1,
    ),
    Subnet(id="s3", network="n2", cidr="203.0.113.0/24", revision=1),
    Subnet(id="s1", network="n1", cidr="10.0.0.0/24", revision=1),
    Subnet(id="s2", network="n1", cidr="2001:db8::/64", revision=1),
    LogicalPort(
        id="p1",
        key=10,
        network="n1",
        name="vm1",
        mac="fa:16:3e:00:00:01",
        fixed_ips=(FixedIP("s1", "10.0.0.5"),),
        chassis="h1",
        generation=2,
        revision=1,
    ),
    LogicalPort(id="p2", key=11, network="n1", mac="fa:16:3e:00:00:02", chassis="h2", generation=1, revision=1),
    LogicalPort(id="p3", key=12, network="n2", mac="fa:16:3e:00:00:03", chassis="h2", generation=1, revision=1),
    LogicalPort(
        id="p4",
        key=13,
        network="n1",
        mac="fa:16:3e:00:00:04",
        device_owner=ROUTER_GATEWAY,
        device_id="r1",
        generation=1,
        revision=1,
    ),
    LogicalPort(
        id="p7",
        key=14,
        network="n1",
        mac="fa:16:3e:00:00:07",
        chassis=remote_chassis("198.51.100.7"),
        remote=RemoteEnd("east", "vxlan", 9),
        revision=1,
    ),
    TunnelState(id="h1/198.51.100.7", chassis="h1", remote_ip="198.51.100.7", up=True, rtt_ms=1.5, mtu=1450, at=7.0),
    LogicalRouter(
        id="r1",
        key=3,
        name="edge",
        routes=(Route("0.0.0.0/0", "10.0.0.9"),),
        interfaces=(RouterInterface("p1", "n1"), RouterInterface("gone", "n2")),
        gateway=RouterGateway("p4", "n2"),
        revision=1,
    ),
    FloatingIp(
        id="f1",
        network="n2",
        address="203.0.113.5",
        port="p2",
        router="r1",
        forwardings=(
            PortForwarding("tcp", 2222, 2222, "p1", "10.0.0.5", 22, 22),
            PortForwarding("udp", 53, 59, "p1", "10.0.0.5", 1053, 1059),
        ),
        revision=1,
    ),
    FloatingIp(id="f2", network="n2", address="203.0.113.6", port="p5", router="r1", fixed_port="p1", revision=1),
    FloatingIp(id="f3", network="n2", address="203.0.113.7", port="p6", router="r1", fixed_port="p3", revision=1),
    Binding(id="p1", host="h1", network="n1", generation=2),
    Binding(id="p2", host="h2", network="n1", generation=1),
    Binding(id="p3", host="h2", network="n2", generation=1),
    Chassis(
        id="h1",
        tunnel_ip="192.0.2.1",
        bridge_mappings=(BridgeMapping("physnet1", "br-ex"),),
        gateway=True,
        snat_addresses=("198.51.100.11", "203.0.113.11"),
    ),
    Chassis(id="h2", tunnel_ip="192.0.2.2", snat_addresses=("203.0.113.12",)),
    Alive(id="h1", since=1.0),
    PortStatus(id="p1", chassis="h1", generation=2, status="ACTIVE", revision=5, at=1.0),
    PortStatus(id="p2", chassis="h2", generation=0, status="ACTIVE", revision=5, at=1.0),
    PortStatus(id="p4", chassis="h1", generation=0, status="ACTIVE", revision=5, at=1.0),
    PortStatus(id="p4", chassis="h2", generation=0, status="ACTIVE", revision=5, at=2.0),
    PortStatus(id="p7", chassis="h1", generation=0, status="ACTIVE", revision=5, at=1.0),
    PortStatus(id="p5", chassis="h1", generation=2, status="ACTIVE", revision=5, at=1.0),
    PortStatus(id="p5", chassis="h2", generation=1, status="ACTIVE", revision=5, at=2.0),
    PortStatus(id="p6", chassis="h2", generation=0, status="ACTIVE", revision=5, at=2.0),
    PortStatus(id="p3", chassis="h2", generation=1, status="DOWN", revision=5, at=1.0, reason="probe failed: too far"),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite://{tmp_path}/dfdb.sqlite"

    async def fill() -> None:
        store = open_store(url)
        puts = [Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in ROWS]
        puts.append(Put(Key("net:n1", "LogicalPort", "bad"), b"{}"))
        puts.append(Put(Key("keys:port", "Slot", "1"), b"p1"))
        await store.commit(Txn(tuple(puts)))
        await store.close()

    asyncio.run(fill())
    return url


def shown(url: str, what: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["show", what, "--store-url", url, "--json"])
    assert result.exit_code == 0, result.output
    assert "LogicalPort bad" in result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_ports_tell_their_network_and_the_status_of_their_present_binding(url: str) -> None:
    ports = {port["id"]: port for port in shown(url, "ports")}
    assert list(ports) == ["p1", "p2", "p3", "p4", "p7"]
    assert ports["p1"]["network"] == "blue"
    assert ports["p1"]["ips"] == ["10.0.0.5"]
    assert (ports["p1"]["status"], ports["p1"]["confirmed_revision"]) == ("ACTIVE", 5)
    assert ports["p2"]["status"] is None
    assert ports["p4"]["chassis"] is None
    assert (ports["p7"]["chassis"], ports["p7"]["status"]) == ("RemoteChassis:198.51.100.7", "ACTIVE")
    assert (ports["p1"]["reason"], ports["p3"]["reason"]) == (None, "probe failed: too far")


def port(url: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["show", "port", "--store-url", url, *options], env={"COLUMNS": "200"})


def test_a_port_tells_whose_word_counts_and_why(url: str, tmp_path: Path) -> None:
    nobody = ("--control-socket", str(tmp_path / "nobody.sock"))
    shown = json.loads(port(url, "p2", "--json", *nobody).stdout)
    assert shown["port"]["mac"] == "fa:16:3e:00:00:02"
    assert shown["statuses"][0]["counts"] == "not: it speaks of binding 0, the present one is 1"
    assert "no controller answers" in shown["controllers"][0]["error"]
    text = port(url, "p3", *nobody).stdout
    assert "probe failed: too far" in text
    assert "yes" in text


LOCAL: dict[str, Any] = {
    "chassis": "h1",
    "in_sync": True,
    "place": {"kind": "local", "ofport": 5},
    "said": {"status": "DOWN"},
    "probe": {"verdict": "failed", "reason": "dropped in table x", "at": 1.0, "trace": ["96. arp", "    drop"]},
    "interfaces": [],
    "degraded": None,
}


def with_controllers(
    url: str, tmp_path: Path, port_id: str, *answers: dict[str, Any], options: Sequence[str] = ()
) -> str:
    """What is shown of a port if these controllers can be asked."""

    async def serve() -> str:
        paths = [tmp_path / f"{number}.sock" for number in range(len(answers))]
        servers = [
            asyncio.create_task(ControlServer(str(path), {"port": lambda of, it=answer: it}).run())
            for path, answer in zip(paths, answers, strict=True)
        ]
        while not all(path.exists() for path in paths):
            await asyncio.sleep(0)
        sockets = [option for path in paths for option in ("--control-socket", str(path))]
        found = await asyncio.to_thread(port, url, port_id, *sockets, *options)
        for server in servers:
            server.cancel()
        return found.stdout

    return asyncio.run(serve())


def test_a_port_shows_how_the_local_controller_sees_it(url: str, tmp_path: Path) -> None:
    text = with_controllers(url, tmp_path, "p1", LOCAL)
    for words in ("local, OpenFlow port 5", "failed", "dropped in table x", "96. arp"):
        assert words in text


NOT_ALIVE = "its controller is not alive: the flows are those of when it was"
ON_H1 = {"kind": "remote", "chassis": "h1", "address": "192.0.2.1"}


def test_each_chassis_place_is_told_and_how_it_is_known(url: str, tmp_path: Path) -> None:
    def places(port_id: str, *answers: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            with_controllers(url, tmp_path, port_id, *answers, options=["--json"])
        )["places"]
        return found

    here = {"chassis": "h1", "place": {"kind": "local", "ofport": None}, "basis": "reported", "notes": []}
    there = {"chassis": "h2", "place": {**ON_H1, "ofport": None}, "basis": "expected", "notes": [NOT_ALIVE]}
    assert places("p1") == [here, there]
    asked = {**here, "place": LOCAL["place"], "basis": "seen"}
    assert places("p1", LOCAL) == [asked, there]
    agrees = {**LOCAL, "chassis": "h2", "place": {**ON_H1, "ofport": 100}}
    assert places("p1", LOCAL, agrees) == [asked, {**there, "place": agrees["place"], "basis": "seen"}]
    behind = {**LOCAL, "chassis": "h2", "place": None, "in_sync": False}
    notes = ["by the DF DB it should be remote on h1 by 192.0.2.1", "its switch doesn't have everything yet", NOT_ALIVE]
    assert places("p1", behind) == [here, {**there, "place": None, "basis": "seen", "notes": notes}]
    stray = {**LOCAL, "chassis": "h9", "place": {**ON_H1, "ofport": 100}}
    notes = ["by the DF DB it doesn't follow the port's network"]
    assert places("p1", stray)[2:] == [{"chassis": "h9", "place": stray["place"], "basis": "seen", "notes": notes}]
    notes = ["this chassis has no bridge for physical network physnet1", "probe failed: too far", NOT_ALIVE]
    down = {"chassis": "h2", "place": None, "basis": "expected", "notes": notes}
    assert places("p3") == [down]


def test_people_see_where_chassis_place_a_port(url: str, tmp_path: Path) -> None:
    text = with_controllers(url, tmp_path, "p1", LOCAL)
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if "│" in line]
    assert ["", "h1", "local, OpenFlow port 5", "its controller", "-", ""] in cells
    assert ["", "h2", "remote on h1 by 192.0.2.1", "the DF DB", NOT_ALIVE, ""] in cells


@pytest.mark.parametrize(("beginning", "says"), [("p", "several ports begin with p"), ("x", "no port of the DF DB")])
def test_a_port_must_be_named_so_that_it_is_one(url: str, beginning: str, says: str) -> None:
    result = port(url, beginning)
    assert result.exit_code == 1
    assert says in result.stderr


def test_networks_tell_their_subnets_and_how_many_ports_they_have(url: str) -> None:
    blue, flat = shown(url, "networks")
    assert (blue["subnets"], blue["ports"]) == (["10.0.0.0/24", "2001:db8::/64"], 4)
    assert flat["physical_network"] == "physnet1"


def test_chassis_tell_whether_they_are_alive(url: str) -> None:
    h1, h2 = shown(url, "chassis")
    assert (h1["alive"], h2["alive"]) == (True, False)
    assert (h1["bridge_mappings"], h1["gateway"], h2["gateway"]) == (["physnet1:br-ex"], True, False)
    assert h1["snat_addresses"] == ["198.51.100.11", "203.0.113.11"]
    assert h2["ports"] == 2


def test_of_a_gateway_the_word_of_any_chassis_counts_that_serves_it(url: str, tmp_path: Path) -> None:
    given = ["--store-url", url, "--control-socket", str(tmp_path / "nobody"), "--json"]
    result = CliRunner().invoke(app, ["show", "port", "p4", *given])
    assert [it["counts"] for it in json.loads(result.stdout)["statuses"]] == ["yes", "yes"]


def test_tunnels_join_the_chassis_of_a_tunnelled_network(url: str) -> None:
    tunnel, abroad = shown(url, "tunnels")
    assert (tunnel["chassis"], tunnel["peer"], tunnel["peer_vtep"]) == ("h1", "h2", "192.0.2.2")
    assert tunnel["networks"] == ["blue"]
    assert abroad == {
        "type": "vxlan",
        "chassis": "h1",
        "vtep": "192.0.2.1",
        "peer": "region east",
        "peer_vtep": "198.51.100.7",
        "networks": ["blue"],
        "up": True,
        "rtt_ms": 1.5,
        "mtu": 1450,
        "at": 7.0,
    }


def test_routers_tell_where_they_stand_and_where_they_lead(url: str) -> None:
    (edge,) = shown(url, "routers")
    assert (edge["name"], edge["key"], edge["admin_up"]) == ("edge", 3, True)
    assert edge["interfaces"] == ["blue: 10.0.0.5", "flat: no port gone"]
    assert edge["routes"] == ["0.0.0.0/0 via 10.0.0.9"]
    assert edge["gateway"] == "flat: "
    assert edge["gateway_chassis"] == "h1", "h2 says so too, and later, but is dead"
    assert edge["snat_addresses"] == ["h1: 203.0.113.11"], "h2 has no way there"
    assert edge["doorkeepers"] == [], "its port on the physical network isn't there"


def test_floating_ips_tell_for_whom_they_stand_and_where(url: str) -> None:
    floating, fixed, stale = shown(url, "floating-ips")
    assert (floating["address"], floating["mac"], floating["network"]) == ("203.0.113.5", "fa:16:3e:00:00:02", "flat")
    assert (floating["router"], floating["fixed_port"], floating["served_on"]) == ("r1", None, "h2")
    assert (fixed["served_on"], stale["served_on"]) == ("h1", None), "whatever is said of other bindings"
    assert floating["forwards"] == ["tcp 2222 to 10.0.0.5 22", "udp 53-59 to 10.0.0.5 1053-1059"]


@pytest.mark.parametrize("what", ["ports", "networks", "routers", "floating-ips", "chassis", "tunnels"])
def test_people_get_a_table(url: str, what: str) -> None:
    result = CliRunner().invoke(app, ["show", what, "--store-url", url], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "at revision" in result.stdout


@pytest.mark.parametrize("url", ["paper://nowhere", "nonsense"])
def test_a_url_that_no_driver_knows_is_refused(url: str) -> None:
    result = CliRunner().invoke(app, ["show", "ports", "--store-url", url])
    assert result.exit_code == 1
    assert "store_url" in result.stderr
