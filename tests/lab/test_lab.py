"""The lab itself: what it shows, how VMs are plugged, who may call Neutron, and what happens to broken parts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from dragonflow.cli.common import read
from dragonflow.cli.main import app
from dragonflow.lab import Lab, LabError
from dragonflow.lab.system import wait_until
from dragonflow.model import Alive

from .conftest import HOSTS, Cloud

DRAGONFLOW = str(Path(sys.executable).with_name("dragonflow"))
ALICE, BOB = "a" * 32, "b" * 32


def cli(lab: Lab, command: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DRAGONFLOW, "lab", command, "--name", lab.name, *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_info_describes_every_part(lab: Lab) -> None:
    done = cli(lab, "info", "--json")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert list(info) == ["name", "clouds", "processes", "cuts", "regions", "vms"]
    assert info["processes"] == info["cuts"] == []  # there is one region
    (region,) = info["regions"]
    assert list(region) == ["name", "neutron_url", "dfdb_url", "pubsub_url", "processes", "hosts"]
    assert httpx.get(region["neutron_url"]).is_success
    assert Path(urlsplit(region["dfdb_url"]).path).is_file()
    processes = {each["name"]: each for each in region["processes"]}
    parts = {f"{part}-{host}" for part in ("controller", "metadata", "ovs", "ovsdb") for host in HOSTS}
    assert set(processes) == {"neutron", "mariadb", "nova", "nova-metadata", "store"} | parts
    assert [name for name, each in processes.items() if each["role"]] == ["neutron"]  # it leads, being the only one
    del processes["store"]  # SQLite is no process
    for each in processes.values():
        assert Path(f"/proc/{each['pid']}").exists(), each
        assert Path(each["log"]).exists(), each
    for host in region["hosts"]:
        assert list(host) == ["name", "netns", "vtep", "ovsdb", "openflow", "bridge", "uplink"]
        assert Path("/run/netns", host["netns"]).exists()
        for socket in ("ovsdb", "openflow"):
            assert Path(host[socket].removeprefix("unix:")).is_socket()


def test_hosts_reach_each_other_and_nothing_else(lab: Lab) -> None:
    vteps = [host.vtep for host in lab.region().hosts.values()]
    assert lab.host_exec("host1", "ping", "-c", "1", "-W", "2", vteps[-1]).returncode == 0
    machine = lab.host_exec("host1", "ip", "-br", "link").stdout.split()
    assert not any(name.startswith(("eth0", "ens", "docker")) for name in machine)


def test_plug_does_what_os_vif_does(lab: Lab, cloud: Cloud) -> None:
    network = cloud.network("10.1.0.0/24", "fd01::/64")
    port = cloud.port(network, "host1")
    vm = cloud.plug(port)
    row = lab.region().hosts["host1"].switch.vsctl("--format=json", "list", "Interface", vm.interface)
    (values,) = (dict(zip(json.loads(row)["headings"], each, strict=True)) for each in json.loads(row)["data"])
    assert dict(values["external_ids"][1]) == {
        "iface-id": port["id"],
        "iface-status": "active",
        "attached-mac": port["mac_address"],
        "vm-uuid": port["device_id"],
    }
    link = json.loads(lab.exec(port["id"], "ip", "-json", "address", "show", "eth0").stdout)[0]
    assert link["address"] == vm.mac == port["mac_address"]
    assert link["mtu"] == network["mtu"]
    addresses = {
        f"{each['local']}/{each['prefixlen']}": each for each in link["addr_info"] if each["scope"] == "global"
    }
    v4, v6 = sorted((fixed["ip_address"] for fixed in port["fixed_ips"]), key=lambda ip: ":" in ip)
    assert set(addresses) == {f"{v4}/24", f"{v6}/64"}
    assert not any(each.get("tentative") for each in addresses.values())
    (shown,) = lab.info()["vms"]
    ips = sorted([v4, v6])
    assert shown | {"ips": sorted(shown["ips"])} == {
        "port_id": port["id"],
        "region": "region1",
        "host": "host1",
        "netns": vm.netns,
        "mac": vm.mac,
        "ips": ips,
    }


def test_a_vm_can_be_named_by_the_beginning_of_its_port(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host1")
    cloud.plug(port)
    assert lab.vm(port["id"][:8]).port_id == port["id"]
    with pytest.raises(LabError, match="no plugged port"):
        lab.vm("zz")


def test_unplug_leaves_nothing(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host1")
    vm = cloud.plug(port)
    sleeper = subprocess.Popen(lab.vm_command(port["id"], ["sleep", "1000"]))
    lab.unplug(port["id"])
    assert sleeper.wait(5) != 0
    assert not Path("/run/netns", vm.netns).exists()
    assert vm.interface not in lab.region().hosts["host1"].switch.vsctl("list-ports", "br-int")
    assert lab.host_exec("host1", "ip", "link", "show", vm.interface).returncode != 0
    with pytest.raises(LabError, match="no plugged port"):
        lab.unplug(port["id"])


def test_plugging_twice_is_refused(cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host1")
    cloud.plug(port)
    with pytest.raises(LabError, match="plugged already"):
        cloud.plug(port)


def test_a_port_bound_elsewhere_is_plugged_with_a_warning(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host1")
    said: list[str] = []
    lab.plug(port["id"], "host2", warn=said.append)
    assert "bound port" in said[0]
    assert "host1" in said[0]


def test_a_port_bound_nowhere_is_bound_first_as_nova_does(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"))
    said: list[str] = []
    lab.plug(port["id"], "host2", warn=said.append)
    assert "bound it to host2" in said[0]
    wait_until(lambda: cloud.active(port), "ACTIVE", 20)
    assert cloud.get(port["id"])["device_owner"] == "compute:nova"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("plug", "--host", "host1", "00000000-0000-4000-8000-000000000000"), "could not be found"),
        (("plug", "--host", "host9", "00000000-0000-4000-8000-000000000000"), "there are: host1, host2, host3"),
        (("plug", "--host", "host1", "--region", "mars", "x"), "there are: region1"),
        (("unplug", "nonsense"), "no plugged port"),
        (("exec", "nonsense", "--", "true"), "no plugged port"),
        (("host", "host9", "--", "true"), "there are: host1, host2, host3"),
        (("kill", "everything"), "controller-host1"),
        (("up",), "is up already"),
        (("up", "--store", "oracle"), "there are: sqlite, etcd, redis"),
        (("up", "--bus", "horse"), "there are: zmq, redis, store"),
        (("up", "--neutron-servers", "0"), "1 to 9 are possible"),
        (("up", "--disk", "5"), "for the stores etcd and redis"),
        (("partition", "host1"), "by its file"),
        (("partition", "host9"), "there are: host1, host2, host3"),
        (("heal", "host1"), "by its file"),
        (("lose", "5"), "--lossy"),
        (("fill-disk",), "--disk"),
        (("start", "controller-host1", "--clock", "+1h"), "runs; stop it"),
        (("start", "nova", "--clock", "+1h"), "no controller"),
        (("migrate", "nonsense", "host1"), "no plugged port"),
    ],
)
def test_a_mistake_gets_a_message_and_no_traceback(lab: Lab, args: Sequence[str], message: str) -> None:
    command, *rest = args
    result = CliRunner().invoke(app, ["lab", command, "--name", lab.name, *rest], catch_exceptions=False)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())


def test_a_program_that_is_not_there_gets_a_message_and_no_traceback(lab: Lab) -> None:
    done = cli(lab, "host", "host1", "--", "no-such-program")  # takes this process's place
    assert done.returncode != 0
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_plugs_runs_and_unplugs(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network("10.1.0.0/24"), "host2")
    plugged = cli(lab, "plug", "--host", "host2", port["id"])
    assert plugged.returncode == 0, plugged.stderr
    assert plugged.stdout.strip() == lab.vm(port["id"]).netns
    ran = cli(lab, "exec", port["id"], "--", "sh", "-c", "cat /sys/class/net/eth0/address; exit 7")
    assert ran.returncode == 7
    bridges = cli(lab, "host", "host2", "--", "ovs-vsctl", "list-br")
    assert bridges.stdout.split() == ["br-ex", "br-int", "br-phy"], bridges.stderr
    assert cli(lab, "unplug", port["id"]).returncode == 0
    assert not lab.vms


def test_without_addresses_or_dhcp_a_vm_stays_bare(lab: Lab, cloud: Cloud, neutron: httpx.Client) -> None:
    network = cloud.network("10.1.0.0/24")
    (subnet,) = neutron.get("/subnets", params={"network_id": network["id"]}).json()["subnets"]
    neutron.put(f"/subnets/{subnet['id']}", json={"subnet": {"enable_dhcp": False}})
    bare, asking = cloud.port(network, "host1"), cloud.port(network, "host1")
    cloud.plug(bare, address="none")
    with pytest.raises(LabError, match="no DHCP server gave it an address"):
        cloud.plug(asking, address="dhcp")
    for port in (bare, asking):  # the second stays plugged too, to look into
        assert "inet " not in lab.exec(port["id"], "ip", "address", "show", "eth0").stdout


def test_callers_without_headers_may_do_all_and_others_what_policy_says(lab: Lab, cloud: Cloud) -> None:
    server = lab.region().neutron
    profile = {"binding:profile": {"port_key": "remote_port", "host_ip": "198.51.100.7"}}
    with (
        server.client(project=ALICE) as alice,
        server.client(project=BOB) as bob,
        server.client(roles="admin") as admin,
    ):
        network = cloud.network("10.1.0.0/24", project_id=ALICE)
        assert cloud.port(network, **profile)["binding:profile"] == profile["binding:profile"]
        assert [each["id"] for each in alice.get("/networks").json()["networks"]] == [network["id"]]
        assert bob.get("/networks").json()["networks"] == []
        body: dict[str, Any] = {"network_id": network["id"]}
        for caller, what, code in ((bob, body, 404), (alice, body | profile, 403), (admin, body | profile, 403)):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                caller.post("/ports", json={"port": what})
            assert refused.value.response.status_code == code


@pytest.mark.parametrize("name", ["neutron", "mariadb", "nova", "controller-host3", "ovs-host3", "ovsdb-host3"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_process_can_be_ended_and_started_again(lab: Lab, name: str, how: str) -> None:
    process = lab.process(name)
    before = process.pid
    assert before is not None
    getattr(process, how)()
    assert process.pid is None
    assert not Path(f"/proc/{before}/exe").exists()
    process.start()
    assert process.pid not in (None, before)
    lab.region().neutron.wait()
    lab.region().wait_for_agents()


def test_a_store_in_a_file_can_vanish_and_come_back(lab: Lab) -> None:
    file = Path(urlsplit(lab.region().store.url).path)
    inode = file.stat().st_ino
    lab.process("store").kill()
    try:
        assert not file.exists()
    finally:
        lab.process("store").start()
    assert file.stat().st_ino == inode


def test_a_controllers_clock_can_be_set_off_but_not_what_it_measures_time_with(lab: Lab) -> None:
    process = lab.process("controller-host3")
    process.stop()
    lab.start("controller-host3", clock="+1h")
    try:

        def ahead() -> list[float]:
            return [row.since - time.time() for row in read(lab.region().store.url).of(Alive) if row.id == "host3"]

        wait_until(lambda: any(3500 < seconds < 3700 for seconds in ahead()), "a word from the future", 20, 0.2)
    finally:
        process.stop()
        process.start()
    lab.region().wait_for_agents()


def test_nova_is_told_of_events(lab: Lab) -> None:
    before = len(lab.nova_events())
    port = lab.region().nova_port
    event = {"server_uuid": str(uuid.uuid4()), "name": "network-vif-plugged", "status": "completed", "tag": "p"}
    url = f"http://127.0.0.1:{port}/v2.1/os-server-external-events"
    answer = httpx.post(url, json={"events": [event]})
    assert answer.json() == {"events": [event | {"code": 200}]}
    (told,) = lab.nova_events()[before:]
    assert told.items() >= event.items()
    assert httpx.post(url, content=b"{").status_code == 400


def test_a_crashed_lab_is_cleaned_away_and_its_neighbour_is_left_alone(lab: Lab) -> None:
    other = f"{lab.name}-b"
    before = {name: process.pid for name, process in lab.region().processes.items()}
    command = [DRAGONFLOW, "lab", "up", "--name", other, "--hosts", "1"]
    crashing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        bridge = Path(f"/var/lib/dragonflow-lab/{other}/region1/host1/br-int.mgmt")
        wait_until(lambda: bridge.exists() or crashing.poll() is not None, "half a lab", 60)
        assert crashing.poll() is None
        crashing.kill()
        crashing.wait()
        with pytest.raises(LabError, match="not up"):
            Lab.open(other)
        again = Lab.up(other, hosts=1)
        ports = {part.port for each in (lab, again) for part in (each.region().neutron,)}
        assert len(ports) == 2
        assert before == {name: process.pid for name, process in lab.region().processes.items()}
        pids = [process.pid for process in again.region().processes.values() if process.pid]
    finally:
        done = subprocess.run([DRAGONFLOW, "lab", "down", "--name", other], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
    assert not list(Path("/run/netns").glob(f"{other}-*"))
    assert not Path(f"/var/lib/dragonflow-lab/{other}").exists()
    assert before == {name: process.pid for name, process in lab.region().processes.items()}
