"""The comparison in the background, in a running driver on a real MariaDB: what anybody does to the DF DB is undone."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from region import PROJECT, Region, Server, region, until

from dragonflow.model import Binding, Holder, LogicalPort, PortStatus, Row, Subnet, TunnelState, decode, encode
from dragonflow.store.protocol import Delete, Key, Put, Txn
from dragonflow.testing import founding

SCOPES = ("net:*", "host:*", "keys:*", "chassis", "alive", "status:*", "holds:*")


@pytest.fixture(scope="module")
def one() -> Iterator[Region]:
    """One server that compares a hundred objects a second."""
    with region() as made:
        made.options |= {"repair_rate": "200", "reconcile_period": "5"}
        made.environment["DF_TEST_MENDER_PERIOD"] = "0.5"
        made.start_nova()
        made.start_servers(1)
        made.chassis("h1", "h2")
        yield made


def contents(made: Region) -> dict[Key, bytes | None]:
    return {record.key: record.data for record in made.records(*SCOPES)}


def row(made: Region, key: Key) -> Row:
    record = made.dfdb.store.get(key)
    assert record is not None
    return decode(key.kind, key.id, record.data or b"")


def mended(server: Server) -> list[str]:
    return re.findall(r"df: mended (\w+(?::\w+)? \S+)", server.log.read_text())


def test_whatever_is_done_to_the_df_db_is_undone(one):
    (server,) = one.servers
    network, gone = one.network(server), one.network(server)
    cidr = {"network_id": network, "tenant_id": PROJECT, "cidr": "10.0.0.0/24", "ip_version": 4}
    subnet = server.call("create_subnet", {"subnet": cidr})["id"]
    ports = one.ports(server, network, 6)
    one.say("ACTIVE", ports)
    until(lambda: one.all_are("ACTIVE", ports))
    scope = f"net:{network}"
    until(lambda: one.dfdb.store.get(Key(f"net:{gone}", "LogicalSwitch", gone)) is not None)
    right = contents(one)
    keys = [Key(scope, "LogicalPort", port) for port in ports]
    stray = LogicalPort(id="stray", key=999, network="nonet", mac="fa:16:3e:00:00:01", revision=1)
    port0, port1 = row(one, keys[0]), row(one, keys[1])
    assert isinstance(port0, LogicalPort)
    assert isinstance(port1, LogicalPort)
    nobodys = Holder(
        id="h1/nobody/10.0.0.9",
        chassis="h1",
        network=network,
        port="nobody",
        address="10.0.0.9",
        mac="fa:16:3e:00:00:01",
        turn=1,
        at=0.0,
    )
    done = (
        Delete(keys[0]),
        Put(keys[1], encode(replace(port1, mac="fa:16:3e:ff:ff:ff", key=port0.key))),
        Put(keys[2], b"?"),
        Delete(Key("host:h1", "Binding", ports[3])),
        Put(
            Key("host:h2", "Binding", ports[3]), encode(Binding(id=ports[3], host="h2", network=network, generation=9))
        ),
        Put(
            Key("host:h1", "Binding", ports[4]), encode(Binding(id=ports[4], host="h1", network=network, generation=99))
        ),
        Delete(Key(scope, "LogicalSwitch", network)),
        Delete(Key(scope, "Subnet", subnet)),
        Put(Key("net:nonet", "LogicalPort", "stray"), encode(stray)),
        Put(
            Key(f"net:{gone}", "Subnet", "ghost"),
            encode(Subnet(id="ghost", network=gone, cidr="10.9.0.0/24", revision=1)),
        ),
        Put(Key("keys:port", "KeyOwner", "leak"), b'{"schema":"KeyOwner/1","key":5000}'),
        Put(
            Key("status:h9", "PortStatus", ports[5]),
            encode(PortStatus(id=ports[5], chassis="h9", generation=1, status="DOWN", revision=1, at=0.0)),
        ),
        Put(
            Key("status:h9", "TunnelState", "h9/203.0.113.9"),
            encode(TunnelState(id="h9/203.0.113.9", chassis="h9", remote_ip="203.0.113.9", at=0.0)),
        ),
        Put(
            Key("status:h1", "PortStatus", "nobody"),
            encode(PortStatus(id="nobody", chassis="h1", generation=1, status="DOWN", revision=1, at=0.0)),
        ),
        Put(Key(nobodys.scope, "Holder", nobodys.id), encode(nobodys)),
        Put(Key("alive", "Alive", "h8"), b'{"schema":"Alive/1","id":"h8","since":1.0}'),
        Put(Key("chassis", "Chassis", "broken"), b"?"),
    )
    one.dfdb.store.commit(Txn(done))
    assert contents(one).keys() != right.keys()

    def wrong() -> set[Key]:
        now = contents(one)
        return {key for key in right.keys() | now.keys() if not same(right.get(key), now.get(key))}

    with contextlib.suppress(AssertionError):
        until(lambda: not wrong())
    assert wrong() == set(), mended(server)
    # Which half of the comparison comes upon a damage first is chance, and so what it is called. It is told when it is done.
    until(lambda: {write.key.id for write in done} <= {line.split()[1] for line in mended(server)})
    passes = len(mended(server))
    time.sleep(2.0)
    assert len(mended(server)) == passes, "what is right is left alone"


def same(one: bytes | None, other: bytes | None) -> bool:
    """But for the revision of Neutron, which rises with a status."""
    blank = re.compile(rb'"revision":\d+|"at":[0-9.]+')
    return (None if one is None else blank.sub(b"", one)) == (None if other is None else blank.sub(b"", other))


def test_no_change_of_a_user_is_ever_taken_for_a_difference(one):
    """Writers change, bind, create and delete ports while the comparison goes round; nothing is mended, and all arrives."""
    (server,) = one.servers
    network = one.network(server)
    ports = one.ports(server, network, 8)
    before = len(mended(server))
    end = time.monotonic() + 7
    names: dict[str, str] = {}

    def write(seed: int) -> None:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            port = ports[(seed + turn) % len(ports)]
            name = f"{seed}-{turn}"
            host = "h1" if turn % 2 else "h2"
            server.call("update_port", port, {"port": {"name": name, "binding:host_id": host}})
            names[port] = name
            if turn % 5 == 0:
                body = {"network_id": network, "tenant_id": PROJECT, "admin_state_up": True, "binding:host_id": host}
                server.call("delete_port", server.call("create_port", {"port": body})["id"])

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def arrived() -> bool:
        for port, name in names.items():
            record = one.dfdb.store.get(Key(f"net:{network}", "LogicalPort", port))
            found = decode("LogicalPort", port, record.data or b"") if record else None
            if not isinstance(found, LogicalPort) or found.name != name:
                return False
        return True

    until(arrived)
    time.sleep(1.0)
    assert mended(server)[before:] == []


def test_a_df_db_that_was_emptied_is_filled_and_whole_again_at_once_and_no_status_changes(one):
    """By the leader, unasked, whatever its rate. The hosts' statuses are theirs to write again."""
    (server,) = one.servers
    network = one.network(server)
    ports = one.ports(server, network, 6)
    one.say("ACTIVE", ports)
    until(lambda: one.all_are("ACTIVE", ports))
    network_rows = {key for key in contents(one) if key.scope in (f"net:{network}", "host:h1", "chassis")}
    one.dfdb.store.commit(Txn(tuple(Delete(key) for key in (*contents(one), founding.KEY))))
    seconds = until(lambda: one.dfdb.store.get(founding.KEY) is not None, 30, "the DF DB to be whole")
    print(f"whole again {seconds:.1f} s after it was emptied")
    assert network_rows <= contents(one).keys(), "all was there before it was said"
    assert one.all_are("ACTIVE", ports)
