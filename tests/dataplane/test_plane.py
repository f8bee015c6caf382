"""The control plane with nothing in clear: etcd by TLS and users, messages with keys, and a switch elsewhere, by TLS."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import NamedTuple

import pytest
from running import BINDING, NET, PORT, Host, free_port, status_of, until
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.lab.certificates import Certificates
from dragonflow.lab.etcd import ADDRESS, PREFIX, EtcdCluster
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Row, encode
from dragonflow.neutron.dfdb import DfDb
from dragonflow.pubsub import curve
from dragonflow.pubsub.protocol import PORT_STATUS
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn, Unavailable
from dragonflow.switch.openflow.connection import Connection, Disconnected
from dragonflow.switch.remote import Tls
from dragonflow.testing import founding


class Plane(NamedTuple):
    """A region of one chassis and one server, as docs/operate/security.md sets it up."""

    directory: Path
    cluster: EtcdCluster

    def store_url(self, role: str) -> str:
        endpoints = ",".join(member.endpoint for member in self.cluster.members.values())
        password = self.directory / "passwords" / f"dragonflow-{role}.password"
        ca = self.cluster.certificates.ca
        return f"etcd+tls://dragonflow-{role}@{endpoints}/{PREFIX}?password_file={password}&ca={ca}"

    def bus_url(self, host: str) -> str:
        keys = self.directory / "curve"
        return f"zmq+tcp://{ADDRESS}?key={keys}/{host}.key_secret&peers={keys}/peers"

    def secrets(self) -> list[str]:
        passwords = [file.read_text().strip() for file in (self.directory / "passwords").iterdir()]
        keys = [curve.Curve(file, file).pair().secret.decode() for file in (self.directory / "curve").glob("*_secret")]
        pems = [file.read_text().splitlines()[1] for file in self.directory.rglob("key.pem")]
        assert (len(passwords), len(keys), len(pems)) == (2, 2, 4)
        return passwords + keys + pems


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    peers = tmp_path / "curve" / "peers"
    for name in ("h1", "neutron"):
        public, _ = curve.create(tmp_path / "curve", name)
        peers.mkdir(0o755, exist_ok=True)
        (peers / public.name).write_bytes(public.read_bytes())
    cluster = EtcdCluster(tmp_path, tmp_path / "etcd", 1, tls=True, auth=True)
    cluster.make()
    try:
        cluster.start()
        command = ["db", "roles", "--store-url", cluster.url, "--passwords", str(tmp_path / "passwords")]
        printed = CliRunner().invoke(app, [*command, "--server", "--chassis", "h1", "--bus"]).output
        subprocess.run(["sh", "-e"], input=printed, env={**os.environ, **cluster.environment()}, text=True, check=True)
        yield Plane(tmp_path, cluster)
    finally:
        cluster.kill()


@pytest.fixture
def far(netns: str) -> Iterator[str]:
    """The address of the switch's namespace, to which there is no way but a network."""
    net, name = f"fd{secrets.token_hex(1)}:{secrets.token_hex(2)}:{secrets.token_hex(2)}", f"dfs{os.getpid()}"
    for command in (
        f"ip link add {name} type veth peer name eth0 netns {netns}",
        f"ip address add {net}::1/64 dev {name} nodad",
        f"ip link set {name} up",
        f"ip -n {netns} address add {net}::2/64 dev eth0 nodad",
        f"ip -n {netns} link set eth0 up",
    ):
        subprocess.run(command.split(), check=True)
    yield f"{net}::2"
    subprocess.run(["ip", "link", "del", name], check=True)


def test_a_region_works_with_nothing_in_clear(plane: Plane, far: str, vswitch: VSwitch, tmp_path: Path) -> None:
    here, there, other = (Certificates.make(tmp_path / name) for name in ("here", "there", "other"))
    ovsdb, openflow = f"[{far}]:{free_port()}", f"[{far}]:{free_port()}"
    vswitch.add_bridge("br-int")
    vswitch.vsctl("set-ssl", str(there.key), str(there.cert), str(here.ca))
    vswitch.vsctl("set-manager", f"pssl:{ovsdb.rpartition(':')[2]}:[{far}]")
    vswitch.vsctl("set-controller", "br-int", f"pssl:{openflow.rpartition(':')[2]}:[{far}]")
    host = Host(vswitch, tmp_path, plane.store_url("server"))
    host.config.write_text(
        f"[df]\nhost = h1\ntunnel_ip = 192.0.2.1\nlease_ttl = 4\ndatapath_type = netdev\n"
        f"store_url = {plane.store_url('chassis-h1')}\npubsub_url = {plane.bus_url('h1')}\n"
        f"ovsdb_connection = ssl:{ovsdb}\nopenflow_connection = ssl:{openflow}\n"
        f"ovs_ssl_key_file = {here.key}\novs_ssl_cert_file = {here.cert}\novs_ssl_ca_cert_file = {there.ca}\n"
        f"vswitchd_control = {vswitch.directory}/ovs-vswitchd.ctl\ncontrol_socket = {host.control}\n"
        "metadata_proxy_shared_secret = sesame\n"
    )
    host.config.chmod(0o600)
    neutron = DfDb(plane.store_url("server"), plane.bus_url("neutron"))
    with closing(neutron), host.controller():
        neutron.listen()
        write(neutron, NET, PORT, BINDING)
        neutron.portal.run(lambda: founding.found(neutron.store.underlying()), 20)
        until(lambda: host.status()["in_sync"], f"the controller to be in sync: {host.log.read_text()}")
        heard = neutron.portal.start(lambda: first_status(neutron))
        host.plug()
        until(lambda: status_of(host) == ("ACTIVE", ""), "ACTIVE")
        assert b"h1" in heard.result(20)
        assert any("p1" in line or "cookie" in line for line in host.flows())
        shown = CliRunner().invoke(app, ["show", "port", "p1", "--config-file", str(host.config)])
        assert shown.exit_code == 0, shown.output
        status = CliRunner().invoke(app, ["status", "--json", "--config-file", str(host.config)])
    told = host.log.read_text() + shown.output + status.output
    assert "sesame" not in told
    assert not [it for it in plane.secrets() if it in told]
    assert "is not encrypted" not in told
    asyncio.run(strangers_are_refused(plane, f"ssl:{openflow}", Tls(*here[::-1]), Tls(*other[::-1])))


def write(neutron: DfDb, *rows: Row) -> None:
    txn = Txn(tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in rows))
    neutron.tell(txn, neutron.store.commit(txn))


async def first_status(neutron: DfDb) -> bytes:
    """What a chassis says first of a port, on the bus."""
    bus = neutron._bus.get()
    async with aclosing(bus.subscribe((PORT_STATUS,))) as messages:
        return (await anext(aiter(messages))).records[0].data or b""


async def strangers_are_refused(plane: Plane, openflow: str, mine: Tls, other: Tls) -> None:
    """Without a certificate of the CA nobody rules the switch, and one chassis can't speak for Neutron."""
    there = mine._replace(ca=plane.directory / "there" / "ca.pem")
    (await Connection.open(openflow, there)).close()
    for tls in (other._replace(ca=there.ca), there._replace(ca=other.ca)):
        with pytest.raises(Disconnected):
            await Connection.open(openflow, tls, patience=5)
    with pytest.raises(ValueError, match="no key, certificate and CA"):
        await Connection.open(openflow)
    chassis = open_store(plane.store_url("chassis-h1"))
    with pytest.raises(Unavailable, match="no right"):
        await chassis.commit(Txn((Put(Key(PORT.scope, "LogicalPort", "p1"), encode(PORT)),)))
    await chassis.close()
