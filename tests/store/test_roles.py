"""Each role's user does its own and no more, on real servers, by what ``dragonflow db roles`` prints and a shell runs."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.lab.etcd import EtcdCluster
from dragonflow.lab.redis import RedisServers
from dragonflow.store import open_store
from dragonflow.store.conformance import put
from dragonflow.store.election import office
from dragonflow.store.protocol import Delete, Key, Store, Txn, Unavailable
from dragonflow.store.redis import RedisStore
from dragonflow.store.redis_client import RedisUrl
from dragonflow.store.rights import chassis_role, redis_rules

PORT = Key("net:a", "LogicalPort", "1")
MINE = (
    Key("chassis", "Chassis", "h1"),
    Key("alive", "Alive", "h1"),
    Key("status:h1", "PortStatus", "1"),
    Key("status:h1", "TunnelState", "h1/192.0.2.2"),
    Key("holds:h1", "Holder", "h1/1/10.0.0.9"),
)
OTHERS = (
    Key("chassis", "Chassis", "h10"),
    Key("chassis", "Chassis", "h2"),
    Key("alive", "Alive", "h2"),
    Key("status:h10", "PortStatus", "1"),
    Key("holds:h2", "Holder", "h2/1/10.0.0.9"),
    Key("host:h1", "Binding", "1"),
    Key("region", "Region", "region"),
    Key("leader", "Leader", "statuses"),
    PORT,
)


class Users:
    """Opens the DF DB as the user of each role."""

    def __init__(self, url: str, passwords: Path) -> None:
        self._url, self._passwords = url, passwords

    def store(self, role: str) -> Store:
        user = f"dragonflow-{role}"
        file = self._passwords / f"{user}.password"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        scheme, _, rest = self._url.partition("://")
        rest = rest.rpartition("@")[2]
        servers, _, options = rest.partition("?")
        kept = "".join(f"&{it}" for it in options.split("&") if it and not it.startswith("password_file="))
        return open_store(f"{scheme}://{user}@{servers}?password_file={file}{kept}")


def make(url: str, passwords: Path, env: Mapping[str, str], by: Sequence[str] = ("sh", "-e")) -> Users:
    """As an operator does it, twice: running it again changes nothing."""
    command = ["db", "roles", "--store-url", url, "--passwords", str(passwords)]
    command += ["--server", "--chassis", "h1", "--reader", "--orchestrator"]
    for _ in range(2):
        printed = CliRunner().invoke(app, command)
        assert printed.exit_code == 0, printed.output
        for file in passwords.iterdir():
            assert file.read_text().strip() not in printed.output
        done = subprocess.run(
            by, input=printed.output, env={**os.environ, **env}, text=True, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ERR" not in done.stdout
    return Users(url, passwords)


async def may_write(store: Store, *keys: Key) -> None:
    for key in keys:
        await store.commit(put(key))
    await store.commit(Txn((*put(*keys).writes,)))
    await store.commit(Txn(tuple(Delete(key) for key in keys)))


async def may_not_write(store: Store, *keys: Key) -> None:
    for key in keys:
        for txn in (put(key), Txn((Delete(key),)), put(MINE[2], key)):
            with pytest.raises(Unavailable, match=r"has no right to it|may not do this"):
                await store.commit(txn)
            assert await store.get(MINE[2]) is None  # all or nothing


async def may_read(store: Store, other: Store, key: Key) -> None:
    revision = await other.commit(put(key))
    assert (await store.get(key)) is not None
    assert key in {record.key for record in (await store.snapshot(["*"])).records}
    async with aclosing(store.watch({key.scope: revision - 1})) as watch:
        assert key in {record.key for record in (await anext(watch)).records}


async def lives(store: Store, key: Key) -> None:
    """A row on a lease stands as long as it is renewed."""
    lease = await store.grant_lease(60)
    await store.commit(put(key, lease=lease))
    await store.keep_alive(lease)
    await store.revoke(lease)
    assert await store.get(key) is None


# -- etcd -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    home = tmp_path_factory.mktemp("etcd")
    cluster = EtcdCluster(home, home / "etcd", 1, tls=True, auth=True)
    cluster.make()
    try:
        cluster.start()
        yield make(cluster.url, home / "passwords", cluster.environment())
    finally:
        cluster.kill()


async def test_in_etcd_a_chassis_writes_its_own_rows_alone(etcd: Users) -> None:
    mine, server = etcd.store("chassis-h1"), etcd.store("server")
    try:
        await may_write(mine, *MINE)
        await lives(mine, MINE[1])
        await may_not_write(mine, *OTHERS)
        await may_read(mine, server, PORT)
        others = await server.grant_lease(60)
        await server.commit(put(Key("server", "Server", "s1"), lease=others))
        with pytest.raises(Unavailable, match="no right"):
            await mine.revoke(others)
        assert await server.get(Key("server", "Server", "s1")) is not None
    finally:
        await mine.close()
        await server.close()


async def test_in_etcd_servers_write_all_readers_nothing_and_the_orchestrator_its_office(etcd: Users) -> None:
    server, reader, orchestrator = map(etcd.store, ("server", "reader", "orchestrator"))
    try:
        await may_write(server, *MINE, *OTHERS)
        await may_read(reader, server, PORT)
        await may_not_write(reader, *MINE[:1], *OTHERS[:1])
        await lives(orchestrator, office("orchestrator"))
        with pytest.raises(Unavailable, match="no right"):
            await orchestrator.get(PORT)
        for key in (office("statuses"), PORT):
            with pytest.raises(Unavailable, match="no right"):
                await orchestrator.commit(put(key))
    finally:
        for store in (server, reader, orchestrator):
            await store.close()


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    home = tmp_path_factory.mktemp("redis")
    with RedisServers(home, home / "redis", size=1, sentinels=0, tls=True, auth=True) as servers:
        yield servers


@pytest.fixture(scope="module")
def redis(servers: RedisServers, tmp_path_factory: pytest.TempPathFactory) -> Users:
    first, ca = servers.servers[0], servers.certificates.ca
    command = ["redis-cli", "-p", str(first.port), "--tls", "--cacert", str(ca)]
    env = {"REDISCLI_AUTH": servers.password_file("default").read_text()}
    return make(servers.url, tmp_path_factory.mktemp("passwords"), env, command)


async def test_in_redis_a_chassis_writes_neither_neutrons_rows_nor_what_others_say(redis: Users) -> None:
    mine, server = redis.store("chassis-h1"), redis.store("server")
    try:
        await may_write(mine, *MINE)
        await lives(mine, MINE[1])
        enforced = [key for key in OTHERS if key.scope not in ("chassis", "alive", "leader")]
        assert {key.scope for key in enforced} == {"status:h10", "holds:h2", "host:h1", "region", "net:a"}
        await may_not_write(mine, *enforced)
        await may_read(mine, server, PORT)
    finally:
        await mine.close()
        await server.close()


async def test_in_redis_a_chassis_ends_the_leases_of_the_dead_and_leaves_old_deletions_to_others(
    servers: RedisServers, redis: Users
) -> None:
    """It goes on when Neutron's servers are all dead, and when more was deleted than is to be remembered."""
    mine, server = redis.store("chassis-h1"), redis.store("server")
    assert isinstance(mine, RedisStore)
    mine._history = 0
    try:
        dead = Key("server", "Server", "s1")
        await server.commit(put(dead, lease=await server.grant_lease(0.2)))
        await server.commit(put(PORT))
        await server.commit(Txn((Delete(PORT),)))
        await server.close()
        async with asyncio.timeout(20):
            while await mine.get(dead) is not None:
                await asyncio.sleep(0.05)
        await may_write(mine, *MINE)
        assert int(servers.servers[0].ctl("ZCARD", "{dragonflow}:graves")) > 0
    finally:
        await mine.close()


async def test_in_redis_readers_write_nothing_and_the_orchestrator_no_rows(redis: Users) -> None:
    server, reader, orchestrator = map(redis.store, ("server", "reader", "orchestrator"))
    try:
        await may_write(server, *MINE, *OTHERS)
        await may_read(reader, server, PORT)
        await may_not_write(reader, *MINE[:1], *OTHERS[:1])
        await lives(orchestrator, office("orchestrator"))
        await may_not_write(orchestrator, PORT, MINE[3])
    finally:
        for store in (server, reader, orchestrator):
            await store.close()


# -- neither ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store-url", "sqlite:///x", "--server"], "has no users"),
        (["--store-url", "etcd://h:1/x"], "say for whom"),
        (["--store-url", "etcd://u:sesame@h:1/x", "--server"], "holds a password"),
    ],
)
def test_what_has_no_roles_is_said(arguments: list[str], said: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["db", "roles", "--passwords", str(tmp_path / "p"), *arguments])
    assert ran.exit_code == 1
    assert said in ran.output
    assert "sesame" not in ran.output
    assert not (tmp_path / "p").exists()


def test_a_hosts_name_is_no_pattern() -> None:
    assert r"~{dragonflow}:rows:status:h\*" in redis_rules("{dragonflow}", chassis_role("h*")).split()
    assert RedisUrl.parse("redis://h:1").prefix == "{dragonflow}"
