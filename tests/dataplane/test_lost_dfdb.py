"""A DF DB that is lost takes no flow away: emptied, or replaced by an empty one, under a running controller or a stopped one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from running import BINDING, DRAGONFLOW, NET, PORT, Host, status_of, until

from dragonflow.controller.intake import NOT_WHOLE
from dragonflow.lab.etcd import PREFIX, EtcdCluster
from dragonflow.lab.redis import RedisServers
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Alive, Binding, Chassis, LogicalPort
from dragonflow.testing import founding

OTHER = replace(PORT, id="p2", key=3, mac="fa:16:3e:00:00:02", chassis="h2")


class Lossy(NamedTuple):
    """A DF DB, and how it gets lost; afterwards it is there, and empty."""

    url: str
    lose: Callable[[], object]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    home = tmp_path_factory.mktemp("etcd")
    cluster = EtcdCluster(home, home / "etcd", size=1)
    cluster.make()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    home = tmp_path_factory.mktemp("redis")
    with RedisServers(home, home / "redis", size=1, sentinels=0) as servers:
        yield servers


@pytest.fixture(params=["etcd deleted", "etcd replaced", "redis flushed"])
def dfdb(request: pytest.FixtureRequest) -> Lossy:
    server, _, how = request.param.partition(" ")
    ground = request.getfixturevalue(server)
    if isinstance(ground, RedisServers):
        ground.servers[0].ctl("FLUSHALL")
        return Lossy(ground.url, lambda: ground.servers[0].ctl("FLUSHALL"))
    ground.ctl("del", "--prefix", f"/{PREFIX}/")

    def replaced() -> None:
        ground.wipe()
        ground.start()

    return Lossy(ground.url, replaced if how == "replaced" else lambda: ground.ctl("del", "--prefix", f"/{PREFIX}/"))


@pytest.fixture
def host(vswitch: VSwitch, tmp_path: Path, dfdb: Lossy) -> Host:
    """Its port p1 is plugged, and p2 is on another host."""
    made = Host(vswitch, tmp_path, dfdb.url)
    vswitch.add_bridge("br-int")
    fill(made)
    made.plug()
    return made


def fill(host: Host, *more: Chassis | LogicalPort | Binding, whole: bool = True) -> None:
    """What Neutron's server writes."""
    host.write(Chassis(id="h2", tunnel_ip="192.0.2.2"), NET, PORT, BINDING, OTHER, *more, whole=whole)


def in_sync(host: Host) -> bool:
    """With a place for both ports: the other one waits for its tunnel port."""
    status = host.status()
    return bool(status["in_sync"]) and status["places"] == 2


def explained(host: Host) -> bool:
    """Whether the controller says what is wrong."""
    return NOT_WHOLE in host.status().get("df_db", "")


def test_a_controller_that_starts_on_an_empty_df_db_changes_nothing(host: Host, dfdb: Lossy) -> None:
    with host.controller():
        until(lambda: in_sync(host), "the controller to be in sync")
    flows = host.flows()
    dfdb.lose()
    with host.controller():
        until(lambda: explained(host), "the controller to say that the DF DB is empty")
        command = [DRAGONFLOW, "status", "--json", "--config-file", str(host.config)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert said.returncode == 2
        assert NOT_WHOLE in said.stdout
        assert NOT_WHOLE in host.log.read_text()
        fill(host, whole=False)
        until(lambda: host.row("alive", Alive, "h1"), "the chassis to be alive all the same")
        assert host.flows() == flows
        host.in_store(founding.found)
        until(lambda: in_sync(host), "the controller to go on")
        assert host.status()["mods_since_start"] == 0
        assert host.flows() == flows
        until(lambda: status_of(host) == ("ACTIVE", ""), "the status to be there again")


def test_a_running_controller_whose_df_db_is_lost_goes_on_with_what_it_knew(host: Host, dfdb: Lossy) -> None:
    with host.controller():
        until(lambda: in_sync(host) and status_of(host) == ("ACTIVE", ""), "the controller to be in sync")
        flows, mods = host.flows(), host.status()["mods_since_start"]
        dfdb.lose()
        # another host's controller, which starts and knows of no DF DB before
        host.in_store(lambda store: store.grant_lease(60))
        until(lambda: explained(host), "the controller to say that the DF DB is empty")
        until(lambda: host.row("alive", Alive, "h1"), "the chassis to be alive all the same")
        assert (host.flows(), host.status()["mods_since_start"]) == (flows, mods)
        assert not host.status()["in_sync"]

        host.vswitch.vsctl("del-port", "br-int", "vm1")
        until(lambda: len(host.flows()) < len(flows), "an unplugged port's flows to go")
        host.plug()
        until(lambda: len(host.flows()) == len(flows), "a known port to be served as ever")

        flows, mods = host.flows(), host.status()["mods_since_start"]
        fill(host)
        until(lambda: in_sync(host), "the controller to take it in")
        assert (host.flows(), host.status()["mods_since_start"]) == (flows, mods)
        until(lambda: status_of(host) == ("ACTIVE", ""), "the status to be there again")
        host.write(replace(OTHER, id="p3", key=4, mac="fa:16:3e:00:00:03"))
        until(lambda: host.status()["places"] == 3, "news to be taken in as ever")
        assert set(flows) < set(host.flows())
